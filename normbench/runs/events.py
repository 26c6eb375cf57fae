"""What a training run reports while it goes: plain data, readable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from normbench.runs.records import EpochRow, Summary


@dataclass(frozen=True)
class Started:
    """The run is about to train; a run that goes on brings all that its checkpoint knows of what was done."""

    rows: tuple[EpochRow, ...]
    """Of the epochs done."""
    losses: tuple[float, ...]
    """Of the steps done."""
    facts: Mapping[str, Any]
    """For `environment.json`."""


@dataclass(frozen=True)
class FactsLearned:
    """What is known only once steps have run: how they run."""

    facts: Mapping[str, Any]
    """For `environment.json`, over what `Started` said."""


@dataclass(frozen=True)
class CheckpointFailed:
    """A checkpoint could not be written; training goes on without it."""

    reason: str


@dataclass(frozen=True)
class StepsDone:
    """Some steps of an epoch are done."""

    epoch: int
    """1 for the first."""
    first_step: int
    """Position in the epoch of the first of `losses`, from 0."""
    losses: tuple[float, ...]
    steps_per_epoch: int
    train_accuracy: float
    """Over this epoch's images so far."""
    images_per_second: float


@dataclass(frozen=True)
class EpochDone:
    """An epoch is trained and evaluated."""

    row: EpochRow


@dataclass(frozen=True)
class TrainingDone:
    """All epochs are done."""

    summary: Summary


TrainingEvent = StepsDone | EpochDone | TrainingDone
RunEvent = Started | FactsLearned | CheckpointFailed | TrainingEvent
