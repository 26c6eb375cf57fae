"""Every run's own result: a table of norms by seeds, so that means and intervals can be checked by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from normbench.report.captions import describe_setting
from normbench.report.grouping import Group, Section
from normbench.runs.records import RunRecord
from normbench.tasks import Measure


@dataclass(frozen=True)
class SeedCell:
    """One run's result, or its state where it has none, and its folder's name."""

    text: str
    run_id: str


@dataclass(frozen=True)
class SeedTable:
    """The results of one measure: a row per norm and setting, a column per seed."""

    measure: Measure
    seeds: tuple[int, ...]
    rows: tuple[tuple[str, tuple[SeedCell | None, ...]], ...]
    """The name of each row with its cells; None where no run of that seed is recorded."""


def per_seed(section: Section) -> list[SeedTable]:
    """Return a table for each measure of the section's task."""
    seeds = tuple(sorted({run.config.seed for run in section.runs}))
    return [_table(section.groups, measure, seeds) for measure in section.task.measures]


def _table(groups: Sequence[Group], measure: Measure, seeds: tuple[int, ...]) -> SeedTable:
    rows = []
    for group in groups:
        by_seed = {run.config.seed: run for run in group.runs}
        name = ", ".join(filter(None, [group.label, describe_setting(group.setting)]))
        rows.append((name, tuple(_cell(by_seed.get(seed), measure) for seed in seeds)))
    return SeedTable(measure, seeds, tuple(rows))


def _cell(run: RunRecord | None, measure: Measure) -> SeedCell | None:
    if run is None:
        return None
    value = measure.of(run.summary) if run.is_completed and run.summary is not None else None
    text = run.status.state if value is None else f"{measure.scale * value:.{_decimals(measure)}f}"
    return SeedCell(text, run.run_id)


def _decimals(measure: Measure) -> int:
    return 2 if measure.unit == "%" else 4
