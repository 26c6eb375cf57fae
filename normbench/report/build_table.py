"""The comparison table, made from runs: one row a configuration; formats.py writes it out."""

from __future__ import annotations

from collections.abc import Mapping
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
    timing_notes,
)
from normbench.report.epoch_times import EpochTime, epoch_times
from normbench.report.grouping import Group, Section, sections
from normbench.report.stats import summarize
from normbench.report.table import TARGETS, Row, Table
from normbench.report.verdicts import MARGIN, MIN_SEEDS, Comparison, compare_to_baseline, rank_ranges
from normbench.runs.records import ExperimentRecord, RunRecord


def comparison_tables(
    experiment: ExperimentRecord, *, baseline: str | None = None, margin: float = MARGIN
) -> tuple[Table, ...]:
    """Return the experiment's table; several where devices, versions or precisions differ, because those do not mix.

    Raises:
        UnknownNameError: `baseline` is given and no run has that norm.
    """
    found = sections(experiment, baseline)
    return tuple(_table(experiment, section, len(found), margin) for section in found)


def _table(experiment: ExperimentRecord, section: Section, num_sections: int, margin: float) -> Table:
    probe = batch_one_probe(experiment, section)
    times = [epoch_times(groups, section, experiment.timing) for groups in section.by_setting]
    rows = [
        row
        for groups, own_times in zip(section.by_setting, times, strict=True)
        for row in _rows(groups, section, margin, probe, own_times)
    ]
    title = experiment.name
    if num_sections > 1:
        title += f" ({describe_environment(section.environment)})"
    return Table(
        title=title,
        caption=caption(section, rows, num_sections, margin) + (f" {probe_caption(probe)}" if probe else ""),
        cost_caption=cost_caption(section, rows),
        varied=section.varied,
        rows=tuple(rows),
        failures=tuple(failure(group, run) for group in section.groups for run in group.runs if is_failure(run)),
        notes=(*notes(section, times), *timing_notes(section, times, experiment.timing), *experiment.unreadable),
        environment=section.environment,
        baseline=section.baseline,
        margin=margin,
    )


def _rows(
    groups: tuple[Group, ...],
    section: Section,
    margin: float,
    probe: BatchOneProbe | None,
    times: Mapping[str, EpochTime],
) -> list[Row]:
    """Return the rows of one setting, compared with each other."""
    scores = {group.label: group.accuracies for group in groups}
    can_rank = sum(len(by_seed) >= MIN_SEEDS for by_seed in scores.values()) > 1
    ranks = rank_ranges(scores) if can_rank else {}
    comparisons: dict[str, Comparison] = {}
    if section.baseline in scores:
        others = {label: by_seed for label, by_seed in scores.items() if label != section.baseline}
        comparisons = compare_to_baseline(others, scores[section.baseline], margin)
    rows = []
    for group in groups:
        summaries = [run.summary for run in group.completed if run.summary is not None]
        time = times.get(group.label)
        memory = [summary.peak_memory_mib for summary in summaries if summary.peak_memory_mib is not None]
        rows.append(
            Row(
                label=group.label,
                norm=group.norm,
                fields={path: group.fields.get(path) for path in section.varied},
                accuracy=summarize(list(scores[group.label].values())),
                epoch_seconds=time.seconds if time else None,
                time_source=time.source if time else None,
                setting=group.setting,
                seconds_to_reach={f"{target:.2f}": _time_to(group, target, time) for target in TARGETS},
                relative_time=time.relative if time else None,
                num_parameters=summaries[0].num_parameters if summaries else None,
                peak_memory_mib=max(memory, default=None),
                learning_rate=group.runs[0].config.train.learning_rate,
                num_completed=len(summaries),
                num_planned=group.num_planned,
                runs=group.count_text,
                is_baseline=group.label == section.baseline,
                comparison=comparisons.get(group.label),
                rank=ranks.get(group.label),
                batch_one=probe.of(group.runs[0].config.norm) if probe else None,
            )
        )
    return rows


def seconds_to_reach(run: RunRecord, target: float, epoch_seconds: float | None = None) -> float | None:
    """Return the training time, evaluation excluded, up to the end of the first epoch with that test accuracy.

    An epoch takes `epoch_seconds`, or what the run itself measured.
    """
    seconds = 0.0
    for epoch in run.epochs:
        seconds += epoch.train_seconds if epoch_seconds is None else epoch_seconds
        if epoch.test_accuracy >= target:
            return seconds
    return None


def _time_to(group: Group, target: float, time: EpochTime | None) -> float | None:
    """Return the median over the completed runs; None unless all of them reached the target."""
    epoch_seconds = time.interleaved_seconds if time else None
    times = [seconds_to_reach(run, target, epoch_seconds) for run in group.completed]
    reached = [seconds for seconds in times if seconds is not None]
    return float(median(reached)) if reached and len(reached) == len(times) else None
