"""Classification: what a run's result is, and what norms are compared by."""

from __future__ import annotations

from normbench.config.schema import RunConfig
from normbench.tasks.task import Amount, BaseSummary, Count, Fraction, Loss, Measure, Task


class Summary(BaseSummary):
    """The result of a classifier's run. `test_*` are those of the last epoch, never of the best."""

    test_accuracy: Fraction
    test_loss: Loss
    train_accuracy: Fraction
    train_loss: Loss
    num_epochs: Count
    epoch_seconds: Amount
    """Median over epochs of `EpochRow.train_seconds`."""
    batch_statistics_accuracy: Fraction | None = None
    """Test accuracy with the statistics of each image alone, as in training; of a probe at batch size 1."""


TEST_ACCURACY = Measure(
    name="test_accuracy",
    header="test accuracy",
    unit="%",
    of=lambda summary: float(summary.test_accuracy),
    format=".2f",
    higher_is_better=True,
    scale=100.0,
    difference_unit="points",
    margin=0.005,
)

CLASSIFICATION = Task(
    name="classification",
    run_config=RunConfig,
    summary=Summary,
    loss_columns=("loss",),
    measures=(TEST_ACCURACY,),
    trainer="normbench.worker.classifiers:CLASSIFICATION",
    report="normbench.report.classification_report:CLASSIFICATION",
    environment_keys=("device_name", "torch", "cuda", "precision", "memory_format"),
    has_epochs=True,
    progress="Epoch {epoch}/{length} | Batch {step}/{steps_per_epoch} | Loss: {loss:.4f}",
    result=lambda summary: f"test accuracy {100 * summary.test_accuracy:.2f} %",
)
