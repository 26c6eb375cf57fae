"""The time of an epoch: from norms that were timed in turn, or else from runs that each had the device to themselves.

A run of a task without epochs counts as one epoch, which takes all of its training steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from normbench.report.grouping import Group, Section
from normbench.report.stats import Spread, median_and_mad
from normbench.runs.timing_file import Timing, TimingSession, timing_key

Source = Literal["interleaved", "runs"]


@dataclass(frozen=True)
class EpochTime:
    """The time of an epoch's training steps."""

    seconds: Spread
    relative: Spread | None
    """The time as a multiple of the baseline's: the ratio of both medians, and how far single ratios are from it."""
    source: Source
    peak_memory_mib: float | None = None
    """What the pass that timed the norm measured of it."""

    @property
    def interleaved_seconds(self) -> float | None:
        """The median where the norm was timed in turn with others; None where its runs timed themselves."""
        return self.seconds.median if self.source == "interleaved" else None


def epoch_times(groups: Sequence[Group], section: Section, timing: Timing) -> dict[str, EpochTime]:
    """Return the times of one setting's groups by label, as far as they are known.

    They are not of groups that have no completed run, nor of those whose runs shared the device and were not timed.

    Ratios are those of the medians, so that the numbers of a row agree. Where norms were timed in turn, their spread is
    that of the ratios within a round, and otherwise what both medians' own spreads make of it.
    """
    of_runs = {group.label: median_and_mad(run_seconds(group)) for group in groups}
    base = next((group for group in groups if group.label == section.baseline), None)
    found = {}
    for group in groups:
        seconds = of_runs[group.label]
        if group.completed and (session := _session(group, base, section, timing)):
            timed = _timed_seconds(group, session)
            ratio, memory = _paired_ratio(timed, session, base), session.norm(_key(group)).peak_memory_mib
            found[group.label] = EpochTime(_spread(timed), ratio, "interleaved", memory)
        elif seconds is not None:
            reference = of_runs[base.label] if base else None
            found[group.label] = EpochTime(seconds, _ratio_of(seconds, reference, is_same=group is base), "runs")
    return found


def run_seconds(group: Group) -> list[float]:
    """Return the training seconds of the completed runs' epochs, first ones left out where there are others.

    Runs that shared the device are left out.
    """
    runs = [run for run in group.completed if run.runs_at_once == 1]
    epochs = [epoch.train_seconds for run in runs for epoch in run.epochs[1 if len(run.epochs) > 1 else 0 :]]
    return epochs or [run.summary.train_seconds for run in runs]


def reasons_untimed(groups: Iterable[Group], section: Section, timing: Timing) -> dict[str, str]:
    """Return, by label, why groups could not be timed, as far as that is recorded."""
    skipped = {norm.key: norm.reason for session in timing.on(section.environment) for norm in session.skipped}
    return {group.label: skipped[_key(group)] for group in groups if _key(group) in skipped}


def _session(group: Group, base: Group | None, section: Section, timing: Timing) -> TimingSession | None:
    """Return the last session that timed the group, with the baseline if one did."""
    found = [session for session in timing.on(section.environment) if _key(group) in session.keys]
    paired = [session for session in found if base and _key(base) in session.keys]
    return next(reversed(paired or found), None)


def _timed_seconds(group: Group, session: TimingSession) -> list[float]:
    """Return the time of an epoch in each round, or of the group's whole training where its task has no epochs."""
    timed = session.norm(_key(group))
    steps = timed.steps_per_epoch
    if not group.runs[0].task.has_epochs:
        steps = max((run.summary.num_steps for run in group.completed), default=steps)
    return [steps * seconds for seconds in timed.seconds_per_step]


def _paired_ratio(timed: Sequence[float], session: TimingSession, base: Group | None) -> Spread | None:
    if base is None or _key(base) not in session.keys:
        return None
    reference = _timed_seconds(base, session)
    ratio = median(timed) / median(reference)
    deviations = [abs(own / other - ratio) for own, other in zip(timed, reference, strict=True)]
    return Spread(ratio, float(median(deviations)), len(timed))


def _ratio_of(seconds: Spread, reference: Spread | None, *, is_same: bool) -> Spread | None:
    """Return the ratio of two medians that were measured apart, with the sum of their relative spreads."""
    if reference is None or not reference.median or not seconds.median:
        return None
    ratio = seconds.median / reference.median
    relative = 0.0 if is_same else seconds.mad / seconds.median + reference.mad / reference.median
    return Spread(ratio, ratio * relative, min(seconds.n, reference.n))


def _spread(values: Sequence[float]) -> Spread:
    found = median_and_mad(values)
    assert found is not None
    return found


def _key(group: Group) -> str:
    return timing_key(group.runs[0].config)
