"""A task: what is trained, and how its results are counted, as plain data that needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from normbench.config.schema import BaseRunConfig

SAMPLES_FILE = "samples.npz"
"""Images that a run keeps for its report, by name; of tasks that have such."""


class Row(BaseModel):
    """A record that is read back from a file; keys that a later version added are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class EpochRow(Row):
    """One epoch. Losses are means over images, in nats; accuracies are fractions from 0 to 1."""

    epoch: int
    """1 for the first."""
    num_steps: int
    """Optimizer steps since the start of training."""
    train_loss: float
    train_accuracy: float
    """Over the training batches as they came, so of a network that was still changing."""
    test_loss: float
    test_accuracy: float
    train_seconds: float
    """Time of the training steps alone: no evaluation, compilation or warm-up."""
    test_seconds: float
    learning_rate: float
    """The rate of the epoch's last step."""


class BaseSummary(Row):
    """The part of a run's result that every task has."""

    num_steps: int
    num_parameters: int
    train_seconds: float
    """Time of the training steps alone: no evaluation, compilation, capture or warm-up."""
    startup_seconds: float
    """From the run's start to its first timed step: building, moving data, compilation, capture, warm-up."""
    peak_memory_mib: float | None
    """Peak memory that the run added to the resident images: device memory, or the process's on a CPU."""
    images_per_second: float
    """Images in training steps over `train_seconds`."""


@dataclass(frozen=True)
class Measure:
    """A number of a completed run that norms are compared by."""

    name: str
    """Its key in tables of raw numbers: ``test_accuracy``."""
    header: str
    """Its name for people, without the unit."""
    unit: str
    """The unit after `scale`: ``%``, or empty for a pure number."""
    of: Callable[[Any], float | None]
    """Takes the task's summary and returns the raw number; None where it was not measured."""
    format: str
    """How a scaled number is written: ``.2f``."""
    higher_is_better: bool
    scale: float = 1.0
    """What people are shown is the raw number times this."""
    difference_unit: str = ""
    """The unit of a difference of two scaled numbers: ``points``."""
    margin: float = 0.0
    """Differences smaller than this count as equivalent: raw, or a share of the baseline's mean."""
    margin_is_relative: bool = False
    """Whether `margin` is a share of the baseline's mean."""


@dataclass(frozen=True)
class Task:
    """What distinguishes one kind of experiment from another; everything else is shared."""

    name: str
    """The value of ``task:`` in a config."""
    run_config: type[BaseRunConfig]
    """What `config.yaml` of a run holds."""
    summary: type[BaseSummary]
    """What `summary.json` of a run holds."""
    loss_columns: tuple[str, ...]
    """The losses that `steps.csv` holds of every step, the one that is minimized first."""
    measures: tuple[Measure, ...]
    """What norms are compared by, the most important first."""
    trainer: str
    """``module:name`` of the object that builds, checks and trains its runs where torch is (`normbench.worker`)."""
    report: str
    """``module:name`` of its part in a report: words and figures (`normbench.report.task_report`)."""
    environment_keys: tuple[str, ...]
    """What of the recorded environment must be equal for runs to stand in one table."""
    has_epochs: bool
    """Whether a training is counted in epochs, each ended by an evaluation, and not only in steps."""
    progress: str
    """How a step is written in a line of progress: by `loss_columns`, epoch, length, step and steps_per_epoch."""
    result: Callable[[Any], str]
    """Takes the task's summary and returns the result in a few words."""
    prerequisite: Callable[[Any], dict[str, Any] | None] = lambda _: None
    """Takes a run's config and returns the config, as of a file, of a run that must be there before; or None."""
    files: tuple[str, ...] = ()
    """Files of a completed run beside those that all tasks have; without them it does not count as completed."""
