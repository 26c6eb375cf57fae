"""``timing.json`` of an experiment: its norms' training steps, timed in turn in one process. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from normbench.config.schema import BaseRunConfig
from normbench.runs.bundle_file import exists
from normbench.runs.untrusted import checked, read_json

TIMING_FILE = "timing.json"

MACHINE_KEYS = ("device", "device_name", "torch", "cuda")
"""The parts of an environment that must be equal for a time to hold there."""

_Positive = Annotated[float, Field(gt=0, le=1e15)]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class TimedNorm(_Row):
    """One norm's times."""

    label: str
    config: Mapping[str, Any]
    """The `timing_fields` of its run's config."""
    seconds_per_step: Annotated[tuple[_Positive, ...], Field(min_length=1)]
    """One a round, the mean over a block of steps. The rounds of a session's norms belong together."""
    steps_per_block: Annotated[int, Field(ge=1)]
    steps_per_epoch: _Positive
    """Images of an epoch over images of a step."""
    peak_memory_mib: Annotated[float, Field(ge=0, le=1e15)] | None = None
    """What its training needs, measured alone, on a GPU; None where that was not measured."""

    @cached_property
    def key(self) -> str:
        """See `timing_key`."""
        return _key(self.config)

    @property
    def epoch_seconds(self) -> tuple[float, ...]:
        """The time of an epoch's training steps, one per round."""
        return tuple(self.steps_per_epoch * seconds for seconds in self.seconds_per_step)


class SkippedNorm(_Row):
    """A norm that could not be timed."""

    label: str
    config: Mapping[str, Any]
    reason: str

    @cached_property
    def key(self) -> str:
        """See `timing_key`."""
        return _key(self.config)


class TimingSession(_Row):
    """Norms of one setting that were timed against each other, round by round."""

    environment: Mapping[str, Any]
    measured_at: str
    """UTC, ISO 8601."""
    timed: tuple[TimedNorm, ...]
    skipped: tuple[SkippedNorm, ...] = ()

    @model_validator(mode="after")
    def _has_equal_rounds(self) -> Self:
        if len({len(norm.seconds_per_step) for norm in self.timed}) > 1:
            raise ValueError("norms that were timed in turn have unequal numbers of rounds")
        return self

    @cached_property
    def keys(self) -> frozenset[str]:
        """The keys of the norms that were timed."""
        return frozenset(norm.key for norm in self.timed)

    @property
    def skipped_keys(self) -> frozenset[str]:
        """The keys of the norms that could not be timed."""
        return frozenset(norm.key for norm in self.skipped)

    def norm(self, key: str) -> TimedNorm:
        """Return the norm with that key, one of `keys`."""
        return next(norm for norm in self.timed if norm.key == key)


class Timing(_Row):
    """All that was timed of an experiment."""

    schema_version: int = 1
    sessions: tuple[TimingSession, ...] = ()

    def on(self, environment: Mapping[str, Any]) -> list[TimingSession]:
        """Return the sessions that were measured on the machine and versions of `environment`."""
        wanted = machine_of(environment)
        return [session for session in self.sessions if machine_of(session.environment) == wanted]


def timing_key(config: BaseRunConfig) -> str:
    """Return `timing_fields` as text, equal for runs whose steps take the same time on the same machine."""
    return _key(config.timing_fields)


def machine_of(environment: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the machine and versions that a time was measured on."""
    return tuple(str(environment.get(key)) for key in MACHINE_KEYS)


def read_timing(folder: Path) -> Timing:
    """Return what was timed of the experiment in `folder`; nothing where there is no timing.json.

    Raises:
        RunError: timing.json cannot be understood.
    """
    path = folder / TIMING_FILE
    if not exists(path):
        return Timing()
    return checked(Timing, read_json(path), path)


def _key(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)
