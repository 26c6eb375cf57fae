"""What a style-transfer training reports while it goes: plain data, readable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from normbench.runs.events import CheckpointFailed, FactsLearned
from normbench.style.records import Samples, StyleSummary


class StepLosses(NamedTuple):
    """The losses of one training step; all but the total before weighting."""

    total: float
    content: float
    style: float
    total_variation: float


@dataclass(frozen=True)
class StyleStarted:
    """The training is about to begin."""

    facts: Mapping[str, Any]
    """For `environment.json`."""
    problems: tuple[str, ...]
    """Content files that were left out, a line each."""
    losses: tuple[StepLosses, ...] = ()
    """Of the steps done, where a training goes on."""


@dataclass(frozen=True)
class StyleSteps:
    """Some steps are done."""

    first_step: int
    losses: tuple[StepLosses, ...]
    num_steps: int
    """Of the whole training."""


@dataclass(frozen=True)
class StyleTrained:
    """The training is done and the model written."""

    summary: StyleSummary
    samples: Samples


StyleEvent = StyleStarted | StyleSteps | StyleTrained | FactsLearned | CheckpointFailed
