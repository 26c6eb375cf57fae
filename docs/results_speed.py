"""How fast and how good the runs of a norm are beside those of airbench94, for docs/results/speedrun.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median

from normbench.report.evaluations import estimate_text, evaluations
from normbench.report.formats import markdown_grid
from normbench.report.page import Report


def speed(report: Report, record: Path) -> str:
    """Return a table of both, and by how much the goal of `record` is met or missed."""
    told = json.loads(record.read_text(encoding="utf-8"))
    group, goal, theirs = report.sections[0].groups[0], told["goal"], told["runs"]
    found = evaluations(group)
    views = [entry.views.accuracy for entry in found if entry.views is not None]
    seconds = [run.summary.train_seconds for run in group.completed]
    other = [run["seconds"] for run in theirs]
    lines = [
        ["what", "runs", "images alone (%)", "six views (%)", "seconds, median", "least to most", "to airbench94"],
        _line(f"SpeedNet, {group.label}", [entry.accuracy for entry in found], views, seconds, other),
        _line("airbench94", [run["plain"] for run in theirs], [run["tta"] for run in theirs], other, other),
    ]
    alone = fmean(entry.accuracy for entry in found)
    sentence = (
        f"The goal is a mean of {100 * goal['accuracy']:.1f} % over {goal['seeds']} seeds or more, in "
        f"{goal['seconds']:.1f} s or less. Over {len(found)} seeds: {_against(alone, goal['accuracy'])} with the "
        f"images alone, {_against(fmean(views), goal['accuracy'])} with six views; the median time is "
        f"{median(seconds):.2f} s, {abs(median(seconds) - goal['seconds']):.2f} s "
        f"{'more, missed' if median(seconds) > goal['seconds'] else 'less, met'}."
    )
    return f"{markdown_grid(lines, ['left', *['right'] * 6])}\n\n{sentence}"


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
