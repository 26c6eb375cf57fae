"""What a training run reports while it goes: plain data, readable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from normbench.records import EpochRow, Summary


@dataclass(frozen=True)
class Started:
    """The run is about to train from `num_epochs` epochs and `num_steps` steps on (0 unless it resumes)."""

    num_epochs: int
    num_steps: int
    facts: Mapping[str, Any]
    """For `environment.json`."""


@dataclass(frozen=True)
class EngineFellBack:
    """The steps run eagerly although a graph was asked for."""

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
RunEvent = Started | EngineFellBack | TrainingEvent
