"""How fast and how good speed runs are, for docs/results/speedrun.md: beside those of airbench94, and norm by norm."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median

from normbench.report.columns import format_estimate, format_rank, format_verdict
from normbench.report.comparison_table import Row, Table
from normbench.report.evaluations import estimate_text, evaluations
from normbench.report.formats import markdown_grid
from normbench.report.grouping import Group
from normbench.report.page import Report


def speed(report: Report, record: Path) -> str:
    """Return a table of both, and by how much the goal of `record` is met or missed."""
    told = json.loads(record.read_text(encoding="utf-8"))
    group, goal, theirs = report.sections[0].groups[0], told["goal"], told["runs"]
    alone, views = _alone(group), _views(group)
    seconds = [run.summary.train_seconds for run in group.completed]
    other = [run["seconds"] for run in theirs]
    lines = [
        ["what", "runs", "images alone (%)", "six views (%)", "seconds, median", "least to most", "to airbench94"],
        _line(f"SpeedNet, {group.label}", alone, views, seconds, other),
        _line("airbench94", [run["plain"] for run in theirs], [run["tta"] for run in theirs], other, other),
    ]
    sentence = (
        f"The goal is a mean of {100 * goal['accuracy']:.1f} % over {goal['seeds']} seeds or more, in "
        f"{goal['seconds']:.1f} s or less. Over {len(alone)} seeds: {_against(fmean(alone), goal['accuracy'])} with "
        f"the images alone, {_against(fmean(views), goal['accuracy'])} with six views; the median time is "
        f"{median(seconds):.2f} s, {abs(median(seconds) - goal['seconds']):.2f} s "
        f"{'more, missed' if median(seconds) > goal['seconds'] else 'less, met'}."
    )
    return f"{markdown_grid(lines, ['left', *['right'] * 6])}\n\n{sentence}"


def norms(report: Report, record: Path) -> str:
    """Return a row per norm at its own learning rate, the best first, and which of them reach the goal of `record`."""
    by_rates = {section.rates: place for place, section in enumerate(report.sections)}
    place = by_rates.get("each its own", 0)
    table = report.tables[place]
    groups = {group.label: group for group in report.sections[place].groups}
    rows = sorted(table.rows, key=_place)
    header = ["norm", "learning rate", "images alone (%)", f"to {table.baseline} (points)", "verdict", "rank",
              "six views (%)", "seconds", "runs"]  # fmt: skip
    lines = [header, *(_norm_line(report, table, row, groups[row.label]) for row in rows)]
    grid = markdown_grid(lines, ["left", "right", "right", "right", "left", *["right"] * 3, "left"])
    return "\n\n".join([grid, _reached(rows, groups, json.loads(record.read_text(encoding="utf-8"))["goal"])])


def _norm_line(report: Report, table: Table, row: Row, group: Group) -> list[str]:
    measure, tuning = table.measures[0], report.experiment.tuning
    result = row.results[measure.name]
    edge = tuning.at_edge(row.label) if row.label in tuning.chosen else None
    difference = result.comparison.difference.estimate if result.comparison else None
    return [
        row.label,
        f"{row.learning_rate:.3g}" + (f" ({edge} tried)" if edge else ""),
        format_estimate(result.estimate, measure),
        format_estimate(difference, measure, sign=True),
        format_verdict(row, measure, table),
        format_rank(result.rank),
        estimate_text(_views(group), 100, 2),
        f"{row.epoch_seconds.median * int(group.fields['train.epochs']):.2f}" if row.epoch_seconds else "-",  # type: ignore[arg-type]
        row.runs,
    ]


def _reached(rows: Sequence[Row], groups: Mapping[str, Group], goal: Mapping[str, float]) -> str:
    """Return in a sentence which norms have a mean of the goal or more."""

    def reach(values_of: Callable[[Group], Sequence[float]]) -> str:
        means = {row.label: fmean(values) for row in rows if (values := values_of(groups[row.label]))}
        return ", ".join(label for label, mean in means.items() if mean >= goal["accuracy"]) or "none"

    return (
        f"With a mean of {100 * goal['accuracy']:.1f} % or more: with the images alone {reach(_alone)}; with six views "
        f"{reach(_views)}."
    )


def _place(row: Row) -> float:
    (result,) = row.results.values()
    return -result.estimate.mean if result.estimate else 1.0


def _alone(group: Group) -> list[float]:
    return [entry.accuracy for entry in evaluations(group)]


def _views(group: Group) -> list[float]:
    return [entry.views.accuracy for entry in evaluations(group) if entry.views is not None]


def _line(
    name: str, alone: Sequence[float], views: Sequence[float], seconds: Sequence[float], other: Sequence[float]
) -> list[str]:
    spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
    ratio = f"{median(seconds) / median(other):.2f}"
    accuracies = [estimate_text(alone, 100, 2), estimate_text(views, 100, 2)]
    return [name, str(len(seconds)), *accuracies, f"{median(seconds):.2f}", spread, ratio]


def _against(mean: float, goal: float) -> str:
    points = 100 * (mean - goal)
    return f"{100 * mean:.2f} %, {abs(points):.2f} points {'above, met' if points >= 0 else 'below, missed'},"
