"""The figures of evaluations: accuracy by the source of statistics, confusions, errors on corrupted images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from normbench.report.evaluations import accuracy_with, evaluations, sources
from normbench.report.figure_style import (
    MAX_PANELS,
    WIDTH,
    Panel,
    Styles,
    add_heading,
    draw_panels,
    figure_style,
    fix_layout,
    label_axes,
    line_style,
    panels,
)
from normbench.report.grouping import Group, Section
from normbench.report.heading import heading
from normbench.report.robustness import corrupted
from normbench.report.stats import summarize
from normbench.report.task_report import PageFigure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_CONFUSIONS = 9
_MAX_CLASSES = 20
_INTERVALS = "bar: 95 % t interval over n seeds"


def statistics_figures(sections: Sequence[Section]) -> Iterator[PageFigure]:
    """Yield accuracy against the source of statistics, of the norms that have more than one."""
    found = sources(sections)
    shown = _with_groups(panels(sections), _has_statistics)
    if len(found) < 2 or not shown:
        return
    is_batch = [source.statistics == "batch" for source in found]

    def draw(axes: Axes, panel: Panel, chosen: Styles) -> None:
        middle = (len(panel.groups) - 1) / 2
        for position, group in enumerate(panel.groups):
            estimates = [
                summarize([a for e in evaluations(group) if (a := accuracy_with(e, source)) is not None])
                for source in found
            ]
            style = chosen[group.norm, group.label]
            for of_batch in (True, False):  # a line through the batches only: averages are no larger batch
                points = [(x, e) for x, e in enumerate(estimates) if e is not None and is_batch[x] == of_batch]
                axes.errorbar(
                    [x + 0.05 * (position - middle) for x, _ in points],
                    [100 * estimate.mean for _, estimate in points],
                    yerr=[100 * (estimate.half_width or 0) for _, estimate in points],
                    color=style.color, marker=style.marker, linestyle=line_style(style) if of_batch else "none",
                    capsize=2, elinewidth=0.8, linewidth=1,
                )  # fmt: skip
        axes.set_xticks(range(len(found)), [source.header.replace("batch of ", "") for source in found])
        label_axes(axes, "statistics of a batch of so many images, or averages", "test accuracy (%)")

    caption = (
        "Test accuracy by where the norms take their statistics from; norms without such statistics are not drawn. "
        "Bars are 95 % Student-t intervals of the mean over n completed runs."
    )
    yield PageFigure(
        "statistics",
        "Where the statistics come from",
        caption,
        partial(draw_panels, shown, draw, [_INTERVALS], finish=_within_percents),
    )


def confusion_figures(sections: Sequence[Section]) -> Iterator[PageFigure]:
    """Yield the confusion matrices of the first norms, where classes are few."""
    groups = [group for panel in panels(sections) for group in panel.groups if evaluations(group)]
    names = {entry.class_names for group in groups for entry in evaluations(group)}
    if len(names) != 1 or not 1 < len(next(iter(names))) <= _MAX_CLASSES:
        return
    shown = groups[:_MAX_CONFUSIONS]
    left_out = f" The first {len(shown)} of {len(groups)} norms." if len(groups) > len(shown) else ""
    caption = (
        "Share of the test images of each class (row) by the class that was named (column), in percent, mean over "
        f"seeds; what is right, on the diagonal, is left blank.{left_out}"
    )
    yield PageFigure(
        "confusion", "Which classes are confused", caption, partial(_confusion_figure, shown, next(iter(names)))
    )


def _confusion_figure(groups: Sequence[Group], classes: Sequence[str]) -> Figure:
    from matplotlib.figure import Figure

    num_columns = min(3, len(groups))
    num_rows = -(-len(groups) // num_columns)
    shares = [_confused_shares(group) for group in groups]
    highest = max(float(np.nanmax(share)) for share in shares) or 1.0
    with figure_style():
        figure = Figure(figsize=(WIDTH, 0.6 + num_rows * WIDTH / max(num_columns, 2) * 0.95))
        grid = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
        for spare in grid[len(groups) :]:
            spare.remove()
        for axes, group, share in zip(grid, groups, shares, strict=False):
            drawn = axes.imshow(share, cmap="Blues", vmin=0, vmax=highest)
            axes.set_title(group.label)
            axes.grid(visible=False)
            axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=6)
            axes.set_yticks(range(len(classes)), classes, fontsize=6)
        bar = figure.colorbar(drawn, ax=list(grid[: len(groups)]), shrink=0.6, fraction=0.03)
        bar.set_label("% of the class", fontsize=7)
        add_heading(figure, heading(groups))
        return fix_layout(figure)


def _confused_shares(group: Group) -> NDArray[np.float64]:
    """Return the mean over runs of the shares in percent, ``(classes, classes)``, with NaN on the diagonal."""
    matrices = np.array([entry.confusion for entry in evaluations(group)], np.float64)
    sizes = matrices.sum(axis=2, keepdims=True)
    shares: NDArray[np.float64] = 100 * (matrices / np.maximum(sizes, 1)).mean(axis=0)
    np.fill_diagonal(shares, np.nan)
    return shares


def corruption_figures(sections: Sequence[Section]) -> Iterator[PageFigure]:
    """Yield the errors by severity, and by kind."""
    shown = _with_groups(panels(sections), lambda group: bool(corrupted(group)))
    caption = (
        "Mean error over the kinds of corruption, by severity; 0: clean images. Thin dotted lines: with the statistics "
        "of each corrupted batch, where a norm has such. Bars are 95 % Student-t intervals over n completed runs."
    )
    explanation = ["line: statistics as trained", "dotted: of the corrupted batch", _INTERVALS]
    yield PageFigure(
        "corruption_severity",
        "Error by severity of corruption",
        caption,
        partial(draw_panels, shown, _severities, explanation, finish=_within_percents),
    )
    groups = [group for panel in shown for group in panel.groups]
    caption = "Error in percent with statistics as trained, mean over five severities and over seeds."
    yield PageFigure("corruption_kinds", "Error by kind of corruption", caption, partial(_kinds_figure, groups))


def _has_statistics(group: Group) -> bool:
    return any(row.statistics == "batch" for entry in evaluations(group) for row in entry.statistics)


def _within_percents(axes: Axes, panel: Panel) -> None:
    """Cut off what of an interval lies beyond what a share can be."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -2), min(high, 102))


def _severities(axes: Axes, panel: Panel, chosen: Styles) -> None:
    middle = (len(panel.groups) - 1) / 2
    for position, group in enumerate(panel.groups):
        style = chosen[group.norm, group.label]
        for adapted in (False, True):
            errors = _errors_by_severity(group, adapted=adapted)
            if not errors:
                continue
            estimates = {severity: summarize(values) for severity, values in errors.items()}
            known = {severity: estimate for severity, estimate in estimates.items() if estimate is not None}
            axes.errorbar(
                [severity + 0.04 * (position - middle) for severity in known],
                [100 * estimate.mean for estimate in known.values()],
                yerr=[100 * (estimate.half_width or 0) for estimate in known.values()],
                color=style.color, marker=style.marker, markersize=2.5 if adapted else 4,
                linestyle=":" if adapted else line_style(style), linewidth=0.8 if adapted else 1.3,
                capsize=2, elinewidth=0.8,
            )  # fmt: skip
    axes.set_xticks(range(6))
    label_axes(axes, "severity", "error (%)")


def _errors_by_severity(group: Group, *, adapted: bool) -> dict[int, list[float]]:
    """Return by severity the mean error of each run, of severity 0 that on clean images."""
    errors: dict[int, list[float]] = {}
    for entry in evaluations(group):
        if entry.corruptions is None or (adapted and entry.corruptions.mean_adapted_error is None):
            continue
        if not adapted:
            errors.setdefault(0, []).append(1 - entry.accuracy)
        for severity in range(1, 6):
            results = [result for result in entry.corruptions.results if result.severity == severity]
            found = [result.adapted_accuracy if adapted else result.accuracy for result in results]
            values = [1 - accuracy for accuracy in found if accuracy is not None]
            if values:
                errors.setdefault(severity, []).append(float(np.mean(values)))
    return errors


def _kinds_figure(groups: Sequence[Group]) -> Figure:
    """Draw a cell for each norm and kind, with its number."""
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(r.kind for group in groups for entry in corrupted(group) for r in entry.results))
    errors = np.array([[_mean_error(group, kind) for kind in kinds] for group in groups])
    with figure_style():
        figure = Figure(figsize=(WIDTH, 1.2 + 0.2 * len(groups)))
        axes = figure.subplots()
        axes.imshow(errors, cmap="Oranges", aspect="auto")
        axes.grid(visible=False)
        axes.set_xticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds], rotation=45, ha="right")
        axes.set_yticks(range(len(groups)), [group.label for group in groups])
        axes.tick_params(labelsize=7, length=0)
        middle = (np.nanmin(errors) + np.nanmax(errors)) / 2
        for (row, column), error in np.ndenumerate(errors):
            color = "white" if error > middle + 0.25 * (np.nanmax(errors) - np.nanmin(errors)) else "black"
            axes.text(column, row, f"{error:.0f}", ha="center", va="center", fontsize=6.5, color=color)
        add_heading(figure, heading(groups))
        return fix_layout(figure)


def _mean_error(group: Group, kind: str) -> float:
    errors = [1 - r.accuracy for entry in corrupted(group) for r in entry.results if r.kind == kind]
    return 100 * float(np.mean(errors)) if errors else float("nan")


def _with_groups(shown: Sequence[Panel], is_wanted: Callable[[Group], bool]) -> list[Panel]:
    """Return the panels with those of their groups that are wanted, without empty ones."""
    kept = [replace(panel, groups=tuple(filter(is_wanted, panel.groups))) for panel in shown]
    return [panel for panel in kept if panel.groups][:MAX_PANELS]
