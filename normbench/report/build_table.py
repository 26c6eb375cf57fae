"""Comparison tables are made from runs here: one row per configuration; formats.py writes them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from normbench.config.schema import AnalysisConfig
from normbench.report.batch_one import BatchOneProbe, batch_one_probe
from normbench.report.captions import (
    caption,
    cost_caption,
    describe_environment,
    describe_rates,
    design_caption,
    failure,
    is_failure,
    look_notes,
    notes,
    pair_notes,
    probe_caption,
    short_caption,
    timing_notes,
    tuning_notes,
)
from normbench.report.comparison_table import TARGETS, Result, Row, Table
from normbench.report.epoch_times import EpochTime, epoch_times
from normbench.report.grouping import Group, Section
from normbench.report.setting_results import analysis_of, setting_results
from normbench.report.stats import failure_rate
from normbench.runs.record_files import ResultId
from normbench.runs.records import ExperimentRecord, RunRecord
from normbench.tasks import Task


def build_tables(
    experiment: ExperimentRecord,
    sections: Sequence[Section],
    margin: float | None = None,
    identity: ResultId | None = None,
    analysis: AnalysisConfig | None = None,
) -> tuple[Table, ...]:
    """Return a table for each section. `margin` replaces the margin of measures in which it is no share of a mean.

    `analysis` replaces what the experiment says of it.
    """
    return tuple(
        _table(experiment, section, sections, margin, identity, analysis or analysis_of(experiment))
        for section in sections
    )


def _table(
    experiment: ExperimentRecord,
    section: Section,
    sections: Sequence[Section],
    margin: float | None,
    identity: ResultId | None,
    analysis: AnalysisConfig,
) -> Table:
    probe = batch_one_probe(experiment, section)
    times = [epoch_times(groups, section, experiment.timing) for groups in section.by_setting]
    margins = _margins(section.task, margin)
    verdicts = {
        measure.name: setting_results(section, measure, margins[measure.name], analysis, experiment.looks)
        for measure in section.task.measures
    }
    rows = [
        row
        for index, (groups, own_times) in enumerate(zip(section.by_setting, times, strict=True))
        for row in _rows(groups, section, {name: found[index] for name, found in verdicts.items()}, probe, own_times)
    ]
    rates = describe_rates(section, experiment.tuning)
    title = experiment.name
    if len(sections) > 1:
        title += f" ({rates or describe_environment(section.environment)})"
    return Table(
        title=title,
        short_caption=short_caption(section, rows),
        caption=caption(section, rows, len(sections), margins)
        + design_caption(section, rows, analysis, experiment.looks)
        + (f" {probe_caption(probe)}" if probe else ""),
        cost_caption=cost_caption(section, rows),
        task=section.task,
        varied=section.varied,
        rows=tuple(rows),
        failures=tuple(failure(group, run) for group in section.groups for run in group.runs if is_failure(run)),
        notes=(
            *pair_notes(section, sections),
            *tuning_notes(section, experiment.tuning),
            *look_notes(experiment.looks, rows),
            *notes(section, times),
            *timing_notes(section, times, experiment.timing),
            *experiment.unreadable,
        ),
        environment=section.environment,
        baseline=section.baseline,
        margins=margins,
        rates=rates,
        identity=identity,
    )


def _margins(task: Task, margin: float | None) -> dict[str, float]:
    return {
        measure.name: measure.margin if margin is None or measure.margin_is_relative else margin
        for measure in task.measures
    }


def _rows(
    groups: tuple[Group, ...],
    section: Section,
    results: Mapping[str, Mapping[str, Result]],
    probe: BatchOneProbe | None,
    times: Mapping[str, EpochTime],
) -> list[Row]:
    """Return the rows of one setting, with their `results` by measure and label."""
    rows = []
    for group in groups:
        summaries = [run.summary for run in group.completed]
        time = times.get(group.label)
        relative = time.relative if time else None
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
                peak_memory_mib=_peak_memory_mib(group, time),
                learning_rate=group.runs[0].config.train.learning_rate,
                num_completed=len(summaries),
                num_planned=group.num_planned,
                runs=group.count_text,
                is_baseline=group.label == section.baseline,
                failure_rate=failure_rate(group.states["diverged"], len(summaries)),
                batch_one=probe.of(group.runs[0].config.norm) if probe else None,
            )
        )
    return rows


def _peak_memory_mib(group: Group, time: EpochTime | None) -> float | None:
    """Return what a norm needs alone: as measured when it was timed, or the most of its runs without others beside."""
    if time and time.peak_memory_mib is not None:
        return time.peak_memory_mib
    alone = [run.summary.peak_memory_mib for run in group.completed if run.runs_at_once == 1]
    return max((peak for peak in alone if peak is not None), default=None)


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
