"""How long planned runs will take, by what runs of the same kind took before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from normbench.config.schema import BaseRunConfig
from normbench.errors import RunError
from normbench.experiment.plan import RunPlan
from normbench.runs.records import SUMMARY_FILE, RunRecord, read_run
from normbench.runs.timing_file import timing_key

Kind = str
"""Everything that the time of an epoch depends on, as text."""


def estimate_seconds(plans: Sequence[RunPlan], runs_dir: Path) -> list[float | None]:
    """Return the seconds that each plan will take from start to end; None where nothing comparable is recorded.

    Comparable: completed, under `runs_dir`, with the same norm, model, data set, batch size, augmentation, optimizer,
    precision, engine and device. The median of their epochs counts, training and evaluation, and of their start-ups.
    """
    wanted = {kind_of(plan.config) for plan in plans}
    by_kind: dict[Kind, list[RunRecord]] = {}
    for run in _completed(runs_dir):
        if (kind := kind_of(run.config)) in wanted:
            by_kind.setdefault(kind, []).append(run)
    return [_estimate(plan.config, by_kind.get(kind_of(plan.config), [])) for plan in plans]


def kind_of(config: BaseRunConfig) -> Kind:
    """Return what two runs share whose epochs take the same time on the same machine."""
    return f"{timing_key(config)} {getattr(config, 'probe', None)}"


def _completed(runs_dir: Path) -> Iterable[RunRecord]:
    for summary_file in sorted(runs_dir.glob(f"*/*/{SUMMARY_FILE}")):
        try:
            run = read_run(summary_file.parent)
        except RunError:
            continue  # an estimate can do without it
        if run.is_completed:
            yield run


def _estimate(config: BaseRunConfig, runs: Sequence[RunRecord]) -> float | None:
    if not runs:
        return None
    unit_seconds = median(seconds for run in runs for seconds in _unit_seconds(run))
    startup_seconds = median(float(run.summary.startup_seconds) / run.runs_at_once for run in runs)
    return startup_seconds + config.length * unit_seconds


def _unit_seconds(run: RunRecord) -> list[float]:
    """Return the seconds of each epoch, evaluation included; of a mean step where the task has no epochs.

    Of a run that shared the device, its share of them.
    """
    if run.epochs:
        return [(epoch.train_seconds + epoch.test_seconds) / run.runs_at_once for epoch in run.epochs]
    return [run.summary.train_seconds / run.config.length / run.runs_at_once]
