"""A task: what is trained, and how its results are counted, as plain data that needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from normbench.config.schema import BaseRunConfig

SAMPLES_FILE = "samples.npz"
"""Images that a run keeps for its report, by name; of tasks that have such."""


LARGEST_LOSS = 3.5e38
"""No finite number in fp32 or bf16 is larger."""


def _nan_where_null(value: object) -> object:
    """Let null stand for NaN, as records once had it."""
    return math.nan if value is None else value


def _possible_loss(value: float) -> float:
    if math.isfinite(value) and abs(value) > LARGEST_LOSS:
        raise ValueError(f"no loss is as large as {value:g}")
    return value


Loss = Annotated[float, BeforeValidator(_nan_where_null), AfterValidator(_possible_loss)]
"""A loss, also of a run that diverged: infinite or NaN too, which records hold as ``"Infinity"`` and ``"NaN"``."""
Fraction = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""
Amount = Annotated[float, Field(ge=0, le=1e15)]
"""Seconds, MiB, images per second."""
Count = Annotated[int, Field(ge=0, le=2**53)]


class Row(BaseModel):
    """A record that is read back from a file; keys that a later version added are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings", defer_build=True)


class EpochRow(Row):
    """One epoch. Losses are means over images, in nats; accuracies are fractions from 0 to 1."""

    epoch: Count
    """1 for the first."""
    num_steps: Count
    """Optimizer steps since the start of training."""
    train_loss: Loss
    train_accuracy: Fraction
    """Over the training batches as they came, so of a network that was still changing."""
    test_loss: Loss
    test_accuracy: Fraction
    train_seconds: Amount
    """Time of the training steps alone: no evaluation, compilation or warm-up."""
    test_seconds: Amount
    learning_rate: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """The rate of the epoch's last step."""


class BaseSummary(Row):
    """The part of a run's result that every task has."""

    num_steps: Count
    num_parameters: Count
    train_seconds: Amount
    """Time of the training steps alone: no evaluation, compilation, capture or warm-up."""
    startup_seconds: Amount
    """From the run's start to its first timed step: building, moving data, compilation, capture, warm-up."""
    peak_memory_mib: Amount | None
    """Peak memory that the run added to the resident images: device memory, or the process's on a CPU."""
    images_per_second: Amount
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
    """The factor from the raw number to the one that people are shown."""
    difference_unit: str = ""
    """The unit of a difference of two scaled numbers: ``points``."""
    margin: float = 0.0
    """Differences smaller than this count as equivalent: raw, or a share of the baseline's mean."""
    margin_is_relative: bool = False
    """Whether `margin` is a share of the baseline's mean."""

    def raw_margin(self, margin: float, baseline: float | None) -> float:
        """Return a `margin` of this measure as a raw difference to a baseline of this mean; None: it has none."""
        return margin * abs(baseline) if self.margin_is_relative and baseline is not None else margin


@dataclass(frozen=True)
class Task:
    """One kind of experiment: everything that distinguishes it from another; the rest is shared."""

    name: str
    """The value of ``task:`` in a config."""
    run_config: type[BaseRunConfig]
    """The type of a run's `config.yaml`."""
    summary: type[BaseSummary]
    """The type of a run's `summary.json`."""
    loss_columns: tuple[str, ...]
    """The losses that `steps.csv` holds of every step, the one that is minimized first."""
    measures: tuple[Measure, ...]
    """The numbers that norms are compared by, the most important first."""
    trainer: str
    """``module:name`` of the object that builds, checks and trains its runs where torch is (`normbench.worker`)."""
    report: str
    """``module:name`` of its part in a report: words and figures (`normbench.report.task_report`)."""
    environment_keys: tuple[str, ...]
    """The parts of the recorded environment that must be equal for runs to stand in one table."""
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
