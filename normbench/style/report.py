"""The report of a style-transfer experiment, from its files alone: curves, picture grid, contrast, table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from normbench.records import REPORT_FOLDER, write_text_atomically
from normbench.report.figures import figure_style, line_style, save_figure
from normbench.report.palette import Style, styles
from normbench.report.plots import SMOOTHING, smooth, smoothing_window
from normbench.report.stats import Estimate, mean_band, summarize
from normbench.style.records import StyleRun, StyleSummary, read_style_experiment

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_DRAWN_POINTS = 1000
CURVES = (("content loss (relative)", 1), ("style loss (relative)", 2))
"""What is drawn against iteration: the label and its column in `StyleRun.losses`."""
NUM_GRID_ROWS = 4


@dataclass(frozen=True)
class StyleGroup:
    """The runs of one norm, which differ in the seed."""

    label: str
    norm: str
    runs: tuple[StyleRun, ...]

    @property
    def completed(self) -> list[StyleRun]:
        """The runs that enter means, by seed."""
        done = [run for run in self.runs if run.result.state == "completed" and run.result.summary is not None]
        return sorted(done, key=lambda run: run.config.seed)

    @property
    def summaries(self) -> list[StyleSummary]:
        """Of the completed runs."""
        return [run.result.summary for run in self.completed if run.result.summary is not None]


def style_groups(runs: Sequence[StyleRun]) -> list[StyleGroup]:
    """Sort runs into groups; runs of different settings (style, size, weights, device, ...) never share one."""
    members: dict[tuple[str, str], list[StyleRun]] = {}
    for run in runs:
        key = run.config.model_dump_json(exclude={"seed": True, "norm": {"label"}})
        members.setdefault((run.config.label, key), []).append(run)
    seen: dict[str, int] = {}
    groups = []
    for (label, _), group in members.items():
        seen[label] = seen.get(label, 0) + 1
        unique = label if seen[label] == 1 else f"{label} #{seen[label]}"
        groups.append(StyleGroup(unique, group[0].config.norm.name, tuple(group)))
    return groups


def write_style_report(experiment_folder: Path) -> list[Path]:
    """Write the report over all style-transfer runs under `experiment_folder`, and return its paths.

    Raises:
        RunError: there are no runs, or one cannot be read.
    """
    groups = style_groups(read_style_experiment(experiment_folder))
    folder = experiment_folder / REPORT_FOLDER
    folder.mkdir(exist_ok=True)
    table = folder / "style.md"
    write_text_atomically(table, style_table(groups))
    paths = [table, *save_figure(loss_figure(groups), folder / "style_losses")]
    if any(group.completed for group in groups):
        paths += save_figure(contrast_figure(groups), folder / "style_contrast")
        paths += save_figure(picture_grid(groups), folder / "style_pictures")
    return paths


def loss_figure(groups: Sequence[StyleGroup]) -> Figure:
    """Draw content and style loss against iteration: the moving average, mean and 95 % t interval over seeds."""
    with figure_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.75, 3.1))
        both = figure.subplots(1, 2)
        chosen = _styles(groups)
        for axes, (name, column) in zip(both, CURVES, strict=True):
            axes.set_yscale("log")
            for group in groups:
                _draw_curve(axes, group, column, chosen[group.label])
            axes.set_xlabel("iteration")
            axes.set_ylabel(name)
        _add_legend(
            figure, groups, f"moving average over {100 * SMOOTHING:g} % of the steps", "band", with_markers=False
        )
        return figure


def _draw_curve(axes: Axes, group: StyleGroup, column: int, style: Style) -> None:
    """Draw the mean of the completed runs, and every other run as a thin line up to its end."""
    curves = [run.losses[:, column] for run in group.completed]
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
        losses = run.losses[:, column][np.isfinite(run.losses[:, column])]
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


def contrast_estimates(group: StyleGroup) -> dict[float, Estimate]:
    """Return the output's change by factor of contrast, over the group's seeds; 0 at the unchanged image."""
    factors = sorted({factor for summary in group.summaries for factor in summary.contrast_change}, reverse=True)
    found = {factor: summarize([s.contrast_change[factor] for s in group.summaries]) for factor in factors}
    start = summarize([0.0 for _ in group.summaries])
    return {factor: estimate for factor, estimate in {1.0: start, **found}.items() if estimate is not None}


def picture_grid(groups: Sequence[StyleGroup]) -> Figure:
    """Draw content images, and beside each what every norm made of it with the first seed; the style in the corner."""
    with figure_style():
        from matplotlib.figure import Figure

        firsts = {g.label: run.samples for g in groups for run in g.completed[:1] if run.samples is not None}
        samples = next(iter(firsts.values()))
        num_rows = min(NUM_GRID_ROWS, len(samples.content))
        columns = ["content", *firsts]
        width = min(6.75, 1.2 * (len(columns) + 1))
        cell = width / (len(columns) + 1)
        figure = Figure(figsize=(width, cell * num_rows + 0.35))
        grid = figure.subplots(num_rows, len(columns) + 1, squeeze=False)
        for axes in grid.flatten():
            axes.set_axis_off()
        for row in range(num_rows):
            pictures = [samples.content[row], *(sample.stylized[row] for sample in firsts.values())]
            for column, (title, picture) in enumerate(zip(columns, pictures, strict=True), start=1):
                grid[row][column].imshow(picture, interpolation="nearest")
                if row == 0:
                    grid[0][column].set_title(fill(title, 17))
        grid[0][0].imshow(samples.style)
        grid[0][0].set_title("style")
        figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
        return figure


def style_table(groups: Sequence[StyleGroup]) -> str:
    """Return the numbers as Markdown: mean and 95 % t interval over seeds."""
    lines = ["# Style transfer", ""]
    first = groups[0].runs[0].config
    lines += [
        f"Style {first.style}, content {first.content}, feature network {first.features}, {first.train.steps} steps "
        f"of {first.train.batch_size} images of {first.image_size}x{first.image_size}. Losses are relative (1: as far "
        "from the target as nothing at all), means over the last tenth of the steps; contrast: how much the output "
        "changes, in % of its own contrast, when the content image keeps 40 % of its contrast. Mean ± half the 95 % t "
        "interval over seeds.",
        "",
    ]
    header = ("norm", "content loss", "style loss", "contrast", "parameters", "train time (s)", "runs")
    lines += [f"| {' | '.join(header)} |", f"| --- |{' ---: |' * (len(header) - 1)}"]
    lines += [f"| {' | '.join(_cells(group))} |" for group in groups]
    reasons = [
        f"- {group.label} seed {run.config.seed}: {run.result.state}: {run.result.reason}"
        for group in groups
        for run in group.runs
        if run not in group.completed
    ]
    return "\n".join([*lines, *(["", *reasons] if reasons else [])]) + "\n"


def _cells(group: StyleGroup) -> list[str]:
    found = group.summaries
    contrast = contrast_estimates(group).get(0.4)
    return [
        group.label,
        _estimate(summarize([summary.content_loss for summary in found]), "{:.4f}"),
        _estimate(summarize([summary.style_loss for summary in found]), "{:.4f}"),
        _estimate(contrast, "{:.1f}", scale=100),
        f"{found[0].num_parameters:,}" if found else "-",
        f"{np.median([summary.train_seconds for summary in found]):.1f}" if found else "-",
        f"{len(found)}/{len(group.runs)}",
    ]


def _estimate(estimate: Estimate | None, form: str, scale: float = 1.0) -> str:
    if estimate is None:
        return "-"
    mean = form.format(scale * estimate.mean)
    return mean if estimate.half_width is None else f"{mean} ± {form.format(scale * estimate.half_width)}"


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
