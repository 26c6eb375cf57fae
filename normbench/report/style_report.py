"""The part of a report that is about style transfer: its images in words, losses, contrast and the pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from normbench.report.comparison_table import Table
from normbench.report.figure_style import (
    WIDTH,
    Panel,
    Styles,
    draw_panels,
    figure_style,
    interval_text,
    label_axes,
    line_style,
    panels,
    say_empty,
)
from normbench.report.grouping import Group, Section
from normbench.report.stats import Estimate, summarize
from normbench.report.sweeps import sweep_figures
from normbench.report.task_report import PageFigure, TaskReport, describe_images
from normbench.runs.records import RunRecord, read_samples
from normbench.tasks.style_transfer import CONTRAST_SHOWN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUM_GRID_ROWS = 4
NUM_SWEPT_MEASURES = 2
"""The content loss and the style loss are drawn against a swept field, the further measures not."""
DODGE = 0.006
"""Contrast by which lines stand apart horizontally, so that their intervals do not cover each other."""


def _data(section: Section) -> str:
    pictures = dict.fromkeys(
        (str(group.fields[STYLE_TRANSFER.images_field]), str(group.fields["style"])) for group in section.groups
    )
    return " and ".join(f"{describe_images(content)} in the style {style}" for content, style in pictures)


def _results(section: Section) -> str:
    return (
        f"Style transfer on {_data(section)}: mean ± half the 95 % Student-t interval over seeds (a single run has no "
        "interval); lower is better. Losses are relative (1: as far from the target as nothing at all), means over the "
        f"last tenth of the steps. The last measure: how much the output changes, in % of its own contrast, when the "
        f"content image keeps {100 * CONTRAST_SHOWN:g} % of its contrast."
    )


def _figures(found: Sequence[Section], tables: Sequence[Table]) -> list[PageFigure]:
    shown = panels(found)
    interval = "95 % Student-t intervals over n completed runs, given in the legend."
    figures = [
        figure
        for measure in found[0].task.measures[:NUM_SWEPT_MEASURES]
        for figure in sweep_figures(found, measure, f"_{measure.name}")
    ]
    figures += _pictures(shown)
    losses = f"Content and style loss by iteration. Bands: {interval}"
    figures.append(PageFigure("style_losses", "Losses", losses, partial(loss_figure, shown)))
    if any(group.completed for panel in shown for group in panel.groups):
        contrast = (
            "How much the output changes when the content image loses contrast: 0 where it stays the same, 100 % where "
            f"it moves as far as its own contrast goes. Bars: {interval} A network whose output is the same for every "
            "image changes least of all: read this beside the pictures."
        )
        figures.append(
            PageFigure("style_contrast", "Contrast of the content image", contrast, partial(contrast_figure, shown))
        )
    return figures


def _pictures(shown: Sequence[Panel]) -> list[PageFigure]:
    """Return a grid of pictures for every setting that has any."""
    caption = "Content images that were not trained on, and what the network of each norm made of them, first seed."
    figures: list[PageFigure] = []
    for panel in shown:
        if (grid := picture_grid(panel.groups)) is not None:
            name = f"style_pictures_{len(figures) + 1}" if figures else "style_pictures"
            title = f"Pictures: {panel.title}" if panel.title else "Pictures"
            figures.append(PageFigure(name, title, caption, partial(_drawn, grid)))
    return figures


def _drawn(figure: Figure) -> Figure:
    return figure


def loss_figure(shown: Sequence[Panel]) -> Figure:
    """Draw content and style loss against iteration."""
    from normbench.report.curves import Loss, loss_curves

    losses = (Loss(1, "content loss (relative)", is_log=True), Loss(2, "style loss (relative)", is_log=True))
    return loss_curves(shown, losses)


def contrast_figure(shown: Sequence[Panel]) -> Figure:
    """Draw how much the output changes against the factor of the input's contrast, mean and interval over seeds."""

    def draw(axes: Axes, panel: Panel, chosen: Styles) -> None:
        completed = [group for group in panel.groups if group.completed]
        for position, group in enumerate(completed):
            changes = contrast_estimates(group)
            style = chosen[group.norm, group.label]
            axes.errorbar(
                [factor + DODGE * (position - (len(completed) - 1) / 2) for factor in changes],
                [100 * estimate.mean for estimate in changes.values()],
                yerr=[100 * (estimate.half_width or 0.0) for estimate in changes.values()],
                color=style.color,
                linestyle=line_style(style),
                marker=style.marker,
                capsize=2,
                elinewidth=0.8,
            )
        if not completed:
            say_empty(axes)
        label_axes(axes, "contrast of the content image (1: as it is)", "change of the output\n(% of its own contrast)")

    def finish(axes: Axes, panel: Panel) -> None:
        axes.set_ylim(bottom=0)
        axes.invert_xaxis()

    return draw_panels(shown, draw, ["line: mean over seeds", interval_text(shown, "bar")], finish=finish)


def contrast_estimates(group: Group) -> dict[float, Estimate]:
    """Return the output's change by factor of contrast, over the group's seeds; 0 at the unchanged image."""
    changes = [run.summary.contrast_change for run in group.completed]
    factors = sorted({factor for change in changes for factor in change}, reverse=True)

    def values(factor: float) -> Iterator[float]:
        return (change[factor] for change in changes if factor in change)

    found = {factor: summarize(list(filter(math.isfinite, values(factor)))) for factor in factors}
    start = summarize([0.0 for _ in changes])
    return {factor: estimate for factor, estimate in {1.0: start, **found}.items() if estimate is not None}


def picture_grid(groups: Sequence[Group]) -> Figure | None:
    """Draw content images, and beside each what every norm made of it with the first seed; the style in the corner.

    None where no run kept pictures.
    """
    firsts = {group.label: _samples(group) for group in groups}
    kept = {label: samples for label, samples in firsts.items() if samples}
    if not kept:
        return None
    with figure_style():
        from matplotlib.figure import Figure

        samples = next(iter(kept.values()))
        num_rows = min(NUM_GRID_ROWS, *(len(found["content"]) for found in kept.values()))
        columns = {"content": samples["content"], **{label: found["stylized"] for label, found in kept.items()}}
        width = min(WIDTH, 1.2 * (len(columns) + 1))
        figure = Figure(figsize=(width, width / (len(columns) + 1) * num_rows + 0.35))
        grid = figure.subplots(num_rows, len(columns) + 1, squeeze=False)
        for axes in grid.flatten():
            axes.set_axis_off()
        grid[0][0].imshow(samples["style"])
        grid[0][0].set_title("style", fontsize=7)
        for column, (title, pictures) in enumerate(columns.items(), start=1):
            for row in range(num_rows):
                grid[row][column].imshow(pictures[row], interpolation="nearest")
            grid[0][column].set_title(_folded(title), fontsize=7)
        figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
        return figure


def _samples(group: Group) -> Mapping[str, NDArray[np.uint8]]:
    first = min(group.completed, key=lambda run: run.config.seed, default=None)
    return read_samples(first.folder) if first else {}


def _folded(title: str) -> str:
    """Break a label before what stands in brackets, and where it is still too wide for a picture."""
    return "\n".join(fill(part, 18) for part in title.replace(" (", "\n(", 1).split("\n"))


def _run_figures(run: RunRecord) -> Mapping[str, Figure]:
    panel = Panel("", (Group.of(run),))
    pictures = picture_grid(panel.groups)
    return {"loss_curve": loss_figure([panel])} | ({"pictures": pictures} if pictures else {})


STYLE_TRANSFER = TaskReport(
    time="training time",
    images_field="content",
    data=_data,
    results=_results,
    figures=_figures,
    run_figures=_run_figures,
)
