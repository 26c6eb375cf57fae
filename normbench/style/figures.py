"""The figures of a style-transfer experiment: loss curves, contrast, picture grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from normbench.report.curves import SMOOTHING, smooth, smoothing_window
from normbench.report.figure_style import figure_style, line_style
from normbench.report.palette import Style, styles
from normbench.report.stats import mean_band
from normbench.runs.records import read_samples
from normbench.style.groups import StyleGroup, contrast_estimates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_DRAWN_POINTS = 1000
CURVES = (("content loss (relative)", 1), ("style loss (relative)", 2))
"""What is drawn against iteration: the label and its column in `StyleRun.losses`."""
NUM_GRID_ROWS = 4


def loss_figure(groups: Sequence[StyleGroup]) -> Figure:
    """Draw content and style loss against iteration: the moving average, mean and 95 % t interval over seeds."""
    with figure_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.75, 3.1))
        both = figure.subplots(1, 2)
        chosen = _styles(groups)
        for axes, (name, column) in zip(both, CURVES, strict=True):
            _log_scale(axes)
            for group in groups:
                _draw_curve(axes, group, column, chosen[group.label])
            axes.set_xlabel("iteration")
            axes.set_ylabel(name)
        _add_legend(
            figure, groups, f"moving average over {100 * SMOOTHING:g} % of the steps", "band", with_markers=False
        )
        return figure


def _log_scale(axes: Axes) -> None:
    """Make the vertical axis logarithmic, with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter

    def plain(value: float, _position: int) -> str:
        return f"{value:g}" if f"{value:e}"[0] in "125" else ""

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(plain))
    axes.yaxis.set_minor_formatter(FuncFormatter(plain))


def _draw_curve(axes: Axes, group: StyleGroup, column: int, style: Style) -> None:
    """Draw the mean of the completed runs, and every other run as a thin line up to its end."""
    curves = [run.step_losses[:, column] for run in group.completed]
    length = min((len(curve) for curve in curves), default=0)
    if length:
        window = smoothing_window(length)
        mean, half_width = mean_band(np.stack([smooth(curve[:length], window) for curve in curves]))
        shown = np.unique(np.linspace(0, length - 1, min(length, MAX_DRAWN_POINTS)).astype(int))
        if half_width is not None:
            low = np.maximum(mean - half_width, mean / 10)  # a log axis ends somewhere
            axes.fill_between(shown + 1, low[shown], (mean + half_width)[shown], color=style.color, alpha=0.18, lw=0)
        axes.plot(shown + 1, mean[shown], color=style.color, linestyle=line_style(style))
    for run in group.runs:
        losses = run.step_losses[:, column][np.isfinite(run.step_losses[:, column])]
        if run not in group.completed and losses.size:
            drawn = smooth(losses, smoothing_window(losses.size))
            axes.plot(np.arange(losses.size) + 1, drawn, color=style.color, linewidth=0.8)
            axes.plot([losses.size], drawn[-1:], color=style.color, marker="x")


def contrast_figure(groups: Sequence[StyleGroup]) -> Figure:
    """Draw how much the output changes against the factor of the input's contrast, mean and interval over seeds."""
    with figure_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.75, 3.1))
        axes = figure.add_subplot()
        chosen = _styles(groups)
        shown = [group for group in groups if group.completed]
        for position, group in enumerate(shown):
            changes = contrast_estimates(group)
            style = chosen[group.label]
            axes.errorbar(
                [factor + 0.006 * (position - (len(shown) - 1) / 2) for factor in changes],
                [100 * estimate.mean for estimate in changes.values()],
                yerr=[100 * (estimate.half_width or 0.0) for estimate in changes.values()],
                color=style.color,
                linestyle=line_style(style),
                marker=style.marker,
                capsize=2,
                elinewidth=0.8,
            )
        axes.set_ylim(bottom=0)
        axes.invert_xaxis()
        axes.set_xlabel("contrast of the content image (1: as it is)")
        axes.set_ylabel("change of the output\n(% of its own contrast)")
        _add_legend(figure, groups, "mean over seeds", "bar", with_markers=True)
        return figure


def picture_grid(groups: Sequence[StyleGroup]) -> Figure:
    """Draw content images, and beside each what every norm made of it with the first seed; the style in the corner."""
    with figure_style():
        from matplotlib.figure import Figure

        firsts = {g.label: found for g in groups for run in g.completed[:1] if (found := read_samples(run.folder))}
        samples = next(iter(firsts.values()))
        num_rows = min(NUM_GRID_ROWS, len(samples["content"]))
        columns = ["content", *firsts]
        width = min(6.75, 1.2 * (len(columns) + 1))
        cell = width / (len(columns) + 1)
        figure = Figure(figsize=(width, cell * num_rows + 0.35))
        grid = figure.subplots(num_rows, len(columns) + 1, squeeze=False)
        for axes in grid.flatten():
            axes.set_axis_off()
        for row in range(num_rows):
            pictures = [samples["content"][row], *(sample["stylized"][row] for sample in firsts.values())]
            for column, (title, picture) in enumerate(zip(columns, pictures, strict=True), start=1):
                grid[row][column].imshow(picture, interpolation="nearest")
                if row == 0:
                    grid[0][column].set_title(_folded(title), fontsize=7)
        grid[0][0].imshow(samples["style"])
        grid[0][0].set_title("style", fontsize=7)
        figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
        return figure


def _folded(title: str) -> str:
    """Break a label before what stands in brackets, and where it is still too wide for a picture."""
    return "\n".join(fill(part, 18) for part in title.replace(" (", "\n(", 1).split("\n"))


def _styles(groups: Sequence[StyleGroup]) -> Mapping[str, Style]:
    chosen = styles((group.norm, group.label) for group in groups)
    return {group.label: chosen[group.norm, group.label] for group in groups}


def _add_legend(
    figure: Figure, groups: Sequence[StyleGroup], explanation: str, interval: str, *, with_markers: bool
) -> None:
    """Put the legend below: each norm with its number of completed runs, and what shows the interval, if any."""
    from matplotlib.lines import Line2D

    handles = []
    for group in groups:
        style = _styles(groups)[group.label]
        lost = len(group.runs) - len(group.completed)
        text = f"{group.label}, n={len(group.completed)}" + (f", {lost} not completed" if lost else "")
        marker = style.marker if with_markers else ""
        handles.append(Line2D([], [], color=style.color, linestyle=line_style(style), marker=marker, label=text))
    several = any(len(group.completed) > 1 for group in groups)
    title = f"{explanation}; {f'{interval}: 95 % t interval over n seeds' if several else 'one seed: no interval'}"
    figure.legend(handles=handles, loc="outside lower center", ncols=3, title=title, title_fontsize=7, alignment="left")
