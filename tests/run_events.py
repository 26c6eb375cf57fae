"""Small plans, and what a run sends, written down."""

from collections.abc import Iterator
from typing import Any

from normbench.config.schema import RunConfig
from normbench.experiment.plan import RunPlan
from normbench.runs.events import EpochDone, Started, StepsDone, TrainingDone
from normbench.tasks.classification import Summary
from normbench.tasks.task import EpochRow
from normbench.worker.targets import RunRequest


def make_plan(norm: str = "bn", seed: int = 0, **train: object) -> RunPlan:
    config = RunConfig.model_validate(
        {
            "norm": {"name": norm, "label": norm.upper()},
            "model": "norm_resnet_small",
            "dataset": {"name": "synthetic", "options": {"num_train": 40, "num_test": 20, "seed": 0}},
            "train": {"epochs": 2, "batch_size": 16, "precision": "fp32", "engine": "eager", **train},
            "seed": seed,
            "device": "cpu",
        }
    )
    return RunPlan(config.run_id, config, 0)


def make_row(epoch: int) -> EpochRow:
    return EpochRow(
        epoch=epoch, num_steps=3 * epoch, train_loss=2.0 / epoch, train_accuracy=0.25, test_loss=2.0,
        test_accuracy=0.25, train_seconds=1.0, test_seconds=0.5, learning_rate=1e-3,
    )  # fmt: skip


SUMMARY = Summary(
    test_accuracy=0.5, test_loss=1.0, train_accuracy=0.5, train_loss=1.0, num_epochs=2, num_steps=6, num_parameters=10,
    train_seconds=2.0, epoch_seconds=1.0, startup_seconds=0.1, peak_memory_mib=None, images_per_second=40.0,
)  # fmt: skip


def whole_run(request: RunRequest) -> Iterator[Any]:
    """What a run of two epochs of three steps sends."""
    yield Started((), (), {"torch": "none"})
    for epoch in (1, 2):
        yield StepsDone(epoch, 0, ((2.5,),), 3, 0.1, 100.0)
        yield StepsDone(epoch, 1, ((2.25,), (2.0,)), 3, 0.2, 100.0)
        yield EpochDone(make_row(epoch))
    yield TrainingDone(SUMMARY)
