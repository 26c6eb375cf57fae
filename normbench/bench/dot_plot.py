"""The dot plots of a benchmark: the median of each case, with the range of its rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from normbench.bench.results import InferResults, LayerResults, PerRound, TrainResults
from normbench.report.figure_style import INK, RULE, WIDTH, add_heading, figure_style, fix_layout
from normbench.report.palette import COLORS, MARKERS
from normbench.report.stats import median_and_mad

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PANELS = 12
_WIDE_RANGE = 8.0
"""Values further apart than this are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Dot:
    """One value in a panel: its row, its series, and the median, lowest and highest of its rounds."""

    row: str
    series: str
    middle: float
    low: float
    high: float


@dataclass(frozen=True)
class DotPanel:
    """One set of axes with its dots."""

    title: str
    x_label: str
    dots: tuple[Dot, ...]
    reference: float | None = None
    """Position of a vertical line."""


def draw_train(results: TrainResults) -> Figure | None:
    """Draw the time of a step: a panel per batch size, a row per norm, a marker per variant; None without times."""
    found = []
    for batch_size in dict.fromkeys(row.batch_size for row in results.rows):
        dots = tuple(
            _dot(row.norm, row.variant_at_once, tuple(1e3 * seconds for seconds in row.seconds_per_step))
            for row in results.rows
            if row.batch_size == batch_size and row.seconds_per_step
        )
        if dots:
            found.append(DotPanel(f"batch {batch_size}", "ms/step", dots))
    return _draw(found, "dot: median over rounds; line: fastest to slowest", _machine(results))


def draw_layers(results: LayerResults) -> Figure | None:
    """Draw bandwidths as a fraction of the copy's: a panel per shape, a row per norm; None if nothing was measured."""
    found = []
    for shape in dict.fromkeys(row.shape for row in results.rows):
        dots = []
        for row in results.rows:
            copy = row.copy_gb_per_s
            if row.shape != shape or copy is None:
                continue
            for part, times, moved in (("forward", row.forward_seconds, 2), ("backward", row.backward_seconds, 3)):
                if times:
                    fractions = tuple(moved * row.input_bytes / seconds / 1e9 / copy for seconds in times)
                    dots.append(_dot(row.norm, f"{part}, {row.way}", fractions))
        if dots:
            num_bytes = next(row.input_bytes for row in results.rows if row.shape == shape)
            title = f"{'x'.join(map(str, shape))} ({num_bytes / 2**20:.3g} MiB)"
            found.append(DotPanel(title, "fraction of copy bandwidth", tuple(dots), reference=1.0))
    return _draw(found, "dot: median over rounds; line: lowest to highest", _machine(results))


def draw_infer(results: InferResults) -> Figure | None:
    """Draw the time of a batch: a panel per precision and batch size, a row per norm; None without times."""
    found = []
    timed = [row for row in results.rows if row.seconds_per_batch]
    for precision, batch_size in dict.fromkeys((row.precision, row.batch_size) for row in timed):
        dots = tuple(
            _dot(
                row.norm,
                f"{row.variant}{', folded' if row.folded else ''}",
                tuple(1e3 * seconds for seconds in row.seconds_per_batch),
            )
            for row in timed
            if (row.precision, row.batch_size) == (precision, batch_size)
        )
        found.append(DotPanel(f"batch {batch_size}, {precision}", "ms/batch", dots))
    return _draw(found, "dot: median over rounds; line: fastest to slowest", _machine(results))


def _machine(results: TrainResults | LayerResults | InferResults) -> str:
    """Return on what it was measured, and the variant of a step where there is one only."""
    variants = {row.variant for row in results.rows} if isinstance(results, TrainResults) else set()
    only = f"variant {variants.pop()}" if len(variants) == 1 else ""
    device = str(results.environment.get("device_name") or results.environment.get("device") or "")
    return ", ".join(part for part in (device, only) if part)


def _dot(row: str, series: str, values: PerRound) -> Dot:
    spread = median_and_mad(values)
    assert spread is not None, "a case without a round has no dot"
    return Dot(row, series, spread.median, min(values), max(values))


def _draw(found: Sequence[DotPanel], explanation: str, heading: str) -> Figure | None:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    if not found:
        return None
    shown = found[:MAX_PANELS]
    series = list(dict.fromkeys(dot.series for panel in shown for dot in panel.dots))
    rows = list(dict.fromkeys(dot.row for panel in shown for dot in panel.dots))
    num_columns = min(2, len(shown))
    num_lines = ceil(len(shown) / num_columns)
    with figure_style():
        is_one_scale = _is_one_scale(shown)
        row_height = 0.13 + 0.05 * len(series)
        figure = Figure(figsize=(WIDTH, num_lines * (0.7 + row_height * len(rows)) + 0.7))
        grid = figure.subplots(num_lines, num_columns, sharex=is_one_scale, sharey=True, squeeze=False).flatten()
        for spare in grid[len(shown) :]:
            spare.remove()
        for axes, panel in zip(grid, shown, strict=False):
            _draw_panel(axes, panel, rows, series)
            _set_scale(axes, [dot for each in (shown if is_one_scale else [panel]) for dot in each.dots])
        handles = [
            Line2D([], [], color=COLORS[i % len(COLORS)], marker=MARKERS[i % len(MARKERS)], linewidth=0.8, label=name)
            for i, name in enumerate(series)
        ]
        figure.legend(
            handles=handles if len(series) > 1 else [], loc="outside lower center", ncols=min(4, len(handles)),
            title=explanation, title_fontsize=7, alignment="left",
        )  # fmt: skip
        if len(found) > MAX_PANELS:
            heading += f"; the first {MAX_PANELS} of {len(found)} panels"
        add_heading(figure, heading)
        return fix_layout(figure)


def _draw_panel(axes: Axes, panel: DotPanel, rows: Sequence[str], series: Sequence[str]) -> None:
    step = 0.6 / max(1, len(series))
    for dot in panel.dots:
        place = series.index(dot.series)
        y = rows.index(dot.row) + (place - (len(series) - 1) / 2) * step
        color = COLORS[place % len(COLORS)]
        axes.plot([dot.low, dot.high], [y, y], color=color, linewidth=2.5, alpha=0.45, solid_capstyle="butt")
        axes.plot([dot.middle], [y], color=color, marker=MARKERS[place % len(MARKERS)], linestyle="none")
    if panel.reference is not None:
        axes.axvline(panel.reference, color=INK, linewidth=0.6)
    axes.set_title(panel.title)
    axes.set_xlabel(panel.x_label)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    for row in range(0, len(rows), 2):  # so that an eye finds back from a dot to its name
        axes.axhspan(row - 0.5, row + 0.5, color=RULE, alpha=0.3, linewidth=0, zorder=0)
    axes.grid(visible=False, axis="y")


def _set_scale(axes: Axes, dots: Sequence[Dot]) -> None:
    """Choose the horizontal scale by the dots of all axes that share it."""
    values = [dot.middle for dot in dots]
    if max(values) > _WIDE_RANGE * min(values) > 0:
        _use_logarithmic(axes)
    else:
        axes.set_xlim(0, 1.08 * max(dot.high for dot in dots))  # no number at the edge, next to another panel's


def _is_one_scale(shown: Sequence[DotPanel]) -> bool:
    """Return whether one horizontal scale suits all panels: whether their medians are of about one size."""
    medians = [median_and_mad([dot.middle for dot in panel.dots]) for panel in shown]
    centers = [spread.median for spread in medians if spread is not None]
    return max(centers) <= _WIDE_RANGE / 2 * min(centers)


def _use_logarithmic(axes: Axes) -> None:
    """Use a logarithmic axis with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
