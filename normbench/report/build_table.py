"""Comparison tables are made from runs here: one row per configuration; formats.py writes them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from normbench.report.batch_one import BatchOneProbe, batch_one_probe
from normbench.report.captions import (
    caption,
    cost_caption,
    describe_environment,
    failure,
    is_failure,
    notes,
    probe_caption,
    short_caption,
    timing_notes,
)
from normbench.report.comparison_table import TARGETS, Result, Row, Table
from normbench.report.epoch_times import EpochTime, epoch_times
from normbench.report.grouping import Group, Section
from normbench.report.stats import summarize
from normbench.report.verdicts import MIN_SEEDS, Comparison, compare_to_baseline, rank_ranges
from normbench.runs.records import ExperimentRecord, RunRecord
from normbench.tasks import Measure, Task


def build_tables(
    experiment: ExperimentRecord,
    sections: Sequence[Section],
    margin: float | None = None,
    result_id: str | None = None,
) -> tuple[Table, ...]:
    """Return a table for each section. `margin` replaces the margin of measures in which it is no share of a mean."""
    return tuple(_table(experiment, section, len(sections), margin, result_id) for section in sections)


def _table(
    experiment: ExperimentRecord, section: Section, num_sections: int, margin: float | None, result_id: str | None
) -> Table:
    probe = batch_one_probe(experiment, section)
    times = [epoch_times(groups, section, experiment.timing) for groups in section.by_setting]
    margins = _margins(section.task, margin)
    rows = [
        row
        for groups, own_times in zip(section.by_setting, times, strict=True)
        for row in _rows(groups, section, margins, probe, own_times)
    ]
    title = experiment.name
    if num_sections > 1:
        title += f" ({describe_environment(section.environment)})"
    return Table(
        title=title,
        short_caption=short_caption(section, rows),
        caption=caption(section, rows, num_sections, margins) + (f" {probe_caption(probe)}" if probe else ""),
        cost_caption=cost_caption(section, rows),
        task=section.task,
        varied=section.varied,
        rows=tuple(rows),
        failures=tuple(failure(group, run) for group in section.groups for run in group.runs if is_failure(run)),
        notes=(*notes(section, times), *timing_notes(section, times, experiment.timing), *experiment.unreadable),
        environment=section.environment,
        baseline=section.baseline,
        margins=margins,
        result_id=result_id,
    )


def _margins(task: Task, margin: float | None) -> dict[str, float]:
    return {
        measure.name: measure.margin if margin is None or measure.margin_is_relative else margin
        for measure in task.measures
    }


def _rows(
    groups: tuple[Group, ...],
    section: Section,
    margins: Mapping[str, float],
    probe: BatchOneProbe | None,
    times: Mapping[str, EpochTime],
) -> list[Row]:
    """Return the rows of one setting, compared with each other."""
    measures = section.task.measures
    results = {measure.name: _results(groups, section, measure, margins[measure.name]) for measure in measures}
    rows = []
    for group in groups:
        summaries = [run.summary for run in group.completed]
        time = times.get(group.label)
        relative = time.relative if time else None
        memory = [summary.peak_memory_mib for summary in summaries if summary.peak_memory_mib is not None]
        rows.append(
            Row(
                label=group.label,
                norm=group.norm,
                fields={path: group.fields.get(path) for path in section.varied},
                setting=group.setting,
                results={name: by_label[group.label] for name, by_label in results.items()},
                epoch_seconds=time.seconds if time else None,
                time_source=time.source if time else None,
                relative_time=relative.median if relative else None,
                relative_time_mad=relative.mad if relative and relative.n > 1 else None,
                seconds_to_reach=_seconds_to_targets(group, section.task, time),
                num_parameters=summaries[0].num_parameters if summaries else None,
                peak_memory_mib=max(memory, default=None),
                learning_rate=group.runs[0].config.train.learning_rate,
                num_completed=len(summaries),
                num_planned=group.num_planned,
                runs=group.count_text,
                is_baseline=group.label == section.baseline,
                batch_one=probe.of(group.runs[0].config.norm) if probe else None,
            )
        )
    return rows


def _results(groups: tuple[Group, ...], section: Section, measure: Measure, margin: float) -> dict[str, Result]:
    """Return, by label, one measure of the groups of one setting, compared with each other."""
    scores = {group.label: group.scores(measure) for group in groups}
    estimates = {label: summarize(list(by_seed.values())) for label, by_seed in scores.items()}
    comparisons: dict[str, Comparison] = {}
    base = estimates.get(section.baseline) if section.baseline else None
    if section.baseline in scores:
        others = {label: by_seed for label, by_seed in scores.items() if label != section.baseline}
        absolute = margin * abs(base.mean) if base and measure.margin_is_relative else margin
        comparisons = compare_to_baseline(
            others, scores[section.baseline], absolute, higher_is_better=measure.higher_is_better
        )
    can_rank = sum(len(by_seed) >= MIN_SEEDS for by_seed in scores.values()) > 1
    ranks = rank_ranges(scores, higher_is_better=measure.higher_is_better) if can_rank else {}
    return {label: Result(estimates[label], comparisons.get(label), ranks.get(label)) for label in scores}


def seconds_to_reach(run: RunRecord, target: float, epoch_seconds: float | None = None) -> float | None:
    """Return the training time, evaluation excluded, up to the end of the first epoch with that test accuracy.

    An epoch takes `epoch_seconds`, or what the run itself measured if it had the device to itself; else it is None.
    """
    if epoch_seconds is None and run.runs_at_once > 1:
        return None
    seconds = 0.0
    for epoch in run.epochs:
        seconds += epoch.train_seconds if epoch_seconds is None else epoch_seconds
        if epoch.test_accuracy >= target:
            return seconds
    return None


def _seconds_to_targets(group: Group, task: Task, time: EpochTime | None) -> dict[str, float | None]:
    """Return, for each of `TARGETS`, the median over the completed runs; None unless all of them reached it."""
    if not task.has_epochs:
        return {}
    epoch_seconds = time.interleaved_seconds if time else None
    found: dict[str, float | None] = {}
    for target in TARGETS:
        times = [seconds_to_reach(run, target, epoch_seconds) for run in group.completed]
        reached = [seconds for seconds in times if seconds is not None]
        found[f"{target:.2f}"] = float(median(reached)) if reached and len(reached) == len(times) else None
    return found
