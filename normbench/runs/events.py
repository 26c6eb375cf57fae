"""Events that a run sends while it trains, for every task: plain data that needs no torch; and where it waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # they bring NumPy and pydantic; a training process is started before these are imported
    import numpy as np
    from numpy.typing import NDArray

    from normbench.runs.evaluation_file import Evaluation
    from normbench.runs.probe_files import ProbeRow
    from normbench.tasks.task import BaseSummary, EpochRow

StepLosses = tuple[float, ...]
"""The losses of one training step, in the order of `Task.loss_columns`."""


@dataclass(frozen=True)
class Started:
    """The run is about to train; a run that goes on brings all that its checkpoint knows of what was done."""

    rows: tuple[EpochRow, ...]
    """The epochs done."""
    losses: tuple[StepLosses, ...]
    """The losses of the steps done."""
    facts: Mapping[str, Any]
    """Facts for `environment.json`."""
    problems: tuple[str, ...] = ()
    """Inputs that the run does without, a line each."""
    probe_rows: Mapping[str, tuple[ProbeRow, ...]] = field(default_factory=dict)
    """What each probe of the run has measured; an entry for every probe."""


@dataclass(frozen=True)
class FactsLearned:
    """It is known how the steps run, now that some have run."""

    facts: Mapping[str, Any]
    """Facts for `environment.json`, over those of `Started`."""


@dataclass(frozen=True)
class CheckpointFailed:
    """A checkpoint could not be written; training goes on without it."""

    reason: str


@dataclass(frozen=True)
class StepsDone:
    """Some steps of an epoch are done."""

    epoch: int
    """1 for the first; a task without epochs has one."""
    first_step: int
    """Position in the epoch of the first of `losses`, from 0."""
    losses: tuple[StepLosses, ...]
    steps_per_epoch: int
    train_accuracy: float | None
    """Share of this epoch's images so far that were classified correctly; None where none are classified."""
    images_per_second: float


@dataclass(frozen=True)
class Pause:
    """The run waits for its device, and other runs of its process may go on meanwhile; never sent to another one."""

    is_over: Callable[[], bool]
    """Whether the run can go on without waiting."""


@dataclass(frozen=True)
class ProbeMeasured:
    """A probe has measured something."""

    name: str
    row: ProbeRow


@dataclass(frozen=True)
class ProbeFailed:
    """A probe cannot measure this network; training goes on without it."""

    name: str
    reason: str


@dataclass(frozen=True)
class EpochDone:
    """An epoch is trained and evaluated."""

    row: EpochRow


@dataclass(frozen=True)
class TrainingDone:
    """All steps are done."""

    summary: BaseSummary
    samples: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    """Images for the report, by name."""
    evaluation: Evaluation | None = None
    """What else was measured of the trained network."""


TrainingEvent = StepsDone | ProbeMeasured | ProbeFailed | EpochDone | TrainingDone
RunEvent = Started | FactsLearned | CheckpointFailed | TrainingEvent
