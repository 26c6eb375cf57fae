"""The chapter on why a norm wins: smoothness, signals and curvature, as probes measured them during training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from normbench.report.chapters import Chapter, Grid
from normbench.report.curves import finite_part, smooth, smoothing_window
from normbench.report.figure_style import (
    WIDTH,
    Panel,
    Styles,
    add_heading,
    add_hover,
    draw_panels,
    figure_style,
    fix_layout,
    has_few_lines,
    interval_text,
    label_axes,
    line_style,
    panels,
    say_empty,
)
from normbench.report.grouping import Group, Section
from normbench.report.heading import heading
from normbench.report.palette import Style
from normbench.report.probe_curves import (
    Band,
    LayerQuantity,
    Quantity,
    Values,
    has_probe,
    mean_of_training,
    over_layers,
    over_training,
)
from normbench.report.ranking import FAMILIES, add_family_legend, family
from normbench.report.small_multiples import small_multiples
from normbench.report.sweeps import LEARNING_RATE, sweeps
from normbench.report.task_report import PageFigure
from normbench.runs.records import ExperimentRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

MAX_SETTINGS = 6
"""Settings with figures of their own; more would bury the page."""


def _mean(numbers: Sequence[float | None]) -> float:
    known = [number for number in numbers if number is not None]
    return sum(known) / len(known) if known else math.nan


_POSITIVE, _PERCENT = (0.0, math.inf), (0.0, 100.0)
LANDSCAPE = (
    Quantity("landscape", "greatest - least loss (nats)", lambda row: row.loss_range[1] - row.loss_range[0], True),
    Quantity("landscape", "largest gradient change", lambda row: max(row.gradient_distances), True),
    Quantity("landscape", "least cosine of gradients", lambda row: min(row.cosines), limits=(-1.0, 1.0)),
    Quantity("landscape", "effective smoothness", lambda row: row.smoothness, True),
    Quantity("landscape", "gradient norm", lambda row: row.gradient_norm, True),
    Quantity("landscape", "weight norm", lambda row: row.weight_norm, True),
)
LAYERS = (
    LayerQuantity("std before the norm", lambda row: [n.before.std for n in row.norms], True),
    LayerQuantity(
        "dead channels after it (%)", lambda row: [100 * n.after.dead_share for n in row.norms], limits=_PERCENT
    ),
    LayerQuantity("stable rank after it", lambda row: [n.stable_rank for n in row.norms]),
    LayerQuantity("cosine of two images after it", lambda row: [n.similarity for n in row.norms], limits=(-1.0, 1.0)),
    LayerQuantity("gradient norm of the weight", lambda row: [w.gradient_norm for w in row.weights], True),
    LayerQuantity("effective learning rate", lambda row: [w.effective_learning_rate for w in row.weights], True),
)
SIGNALS = (
    Quantity("signals", "gradient norm, first / last layer", lambda row: row.gradient_ratio, True),
    Quantity("signals", "stable rank, last norm", lambda row: row.norms[-1].stable_rank if row.norms else math.nan),
    Quantity(
        "signals",
        "cosine of two images, last norm",
        lambda row: _mean([n.similarity for n in row.norms[-1:]]),
        limits=(-1.0, 1.0),
    ),
    Quantity(
        "signals",
        "zeros after norms (%)",
        lambda row: 100 * _mean([n.after.zero_share for n in row.norms]),
        limits=_PERCENT,
    ),
    Quantity(
        "signals",
        "batch mean - running mean (std)",
        lambda row: _mean([n.mean_gap for n in row.norms]),
        limits=_POSITIVE,
    ),
    Quantity(
        "signals",
        "|ln(batch / running variance)|",
        lambda row: _mean([n.variance_gap for n in row.norms]),
        limits=_POSITIVE,
    ),
)
CURVATURE = (Quantity("curvature", "largest |eigenvalue| of the Hessian", lambda row: abs(row.eigenvalue), True),)

_HOW = (
    "Measured during training on the batch of the step that follows, in float32, on a copy of the network in training "
    "mode; docs/probes.md has formulas and sources."
)
_INTERVALS = "Lines are means over n completed runs, geometric on logarithmic axes; bands are 95 % t intervals."


_BY_LAYER = (
    "In the last measurement of each run, by layer in the order of the forward pass: the first four of each norm with "
    "its activation, the last two of each weight. "
)
_IN_LAST_LAYER = "In the last layer: the first four of its norm with its activation, the last two of its weight. "
_RANKED = (
    "Means over training, then over n completed runs, the least first, and 95 % t intervals; geometric over training "
    "on logarithmic axes."
)


@dataclass(frozen=True)
class _QuantityPanel(Panel):
    band: Callable[[Group], Band | None]
    is_log: bool
    x: str
    limits: tuple[float, float]
    """The least and greatest value that there can be: intervals end there."""


def why(experiment: ExperimentRecord, sections: Sequence[Section]) -> Chapter | None:
    """Return the chapter; None where no run had probes and no learning rate was swept."""
    shown = [panel for panel in panels(sections) if any(_probes_of(panel))]
    figures = [figure for number, panel in enumerate(shown[:MAX_SETTINGS], 1) for figure in _figures(panel, number)]
    figures += _rate_bands(sections)
    if not figures:
        return None
    left_out = f"Only the first {MAX_SETTINGS} of {len(shown)} settings are drawn." if len(shown) > MAX_SETTINGS else ""
    text = [*([_HOW] if shown else []), *filter(None, [_measured_once(shown), left_out])]
    grids = [grid for panel in shown for grid in _grids(panel)]
    return Chapter("why", "Why: smoothness and signals", tuple(text), tuple(figures), tuple(grids))


def _measured_once(shown: Sequence[Panel]) -> str:
    """Say which probes measured each run but once: what they show is a network that is not trained yet."""
    counts: dict[str, int] = {}
    for run in (run for panel in shown for group in panel.groups for run in group.completed):
        for name, rows in run.probe_rows.items():
            counts[name] = max(counts.get(name, 0), len(rows))
    once = [name for name, count in counts.items() if count == 1]
    if not once:
        return ""
    return (
        f"Measured before the first step alone, for want of more steps: {', '.join(once)}. A smaller "
        f"{' and '.join(f'probes.{name}.every' for name in once)} measures during training too."
    )


def _probes_of(panel: Panel) -> list[str]:
    names = ("landscape", "signals", "curvature")
    return [name for name in names if any(has_probe(group, name) for group in panel.groups)]


def _figures(panel: Panel, number: int) -> list[PageFigure]:
    """Return the figures of one setting."""
    suffix = "" if number == 1 else f"_{number}"
    of_setting = f": {panel.title}" if panel.title else ""
    probes, found = _probes_of(panel), []
    intervals = _INTERVALS if has_few_lines([panel]) else _RANKED
    if "landscape" in probes:
        found += [
            PageFigure(
                f"loss_band{suffix}",
                f"Loss along the gradient{of_setting}",
                "Line: loss of the batch at the weights, mean over seeds. Band: from the least to the greatest loss at "
                "the weights and at points along the gradient (the probe's step sizes), mean over seeds of each end. "
                "After Santurkar et al. 2018, figure 4a.",
                partial(_loss_bands, panel),
            ),
            PageFigure(
                f"landscape{suffix}",
                f"Smoothness{of_setting}",
                "Along the gradient, by training step: range of the loss, largest change of the gradient and its least "
                "cosine, largest gradient difference over distance; and, for scale, the norms of gradient and weights. "
                + intervals,
                partial(_over_training, panel, LANDSCAPE),
            ),
        ]
    if "signals" in probes:
        found += [
            PageFigure(
                f"signals{suffix}",
                f"Signals by layer{of_setting}",
                (_BY_LAYER + _INTERVALS) if has_few_lines([panel]) else (_IN_LAST_LAYER + _RANKED),
                partial(_over_layers, panel),
            ),
            PageFigure(
                f"signals_training{suffix}",
                f"Signals during training{of_setting}",
                "By training step; zeros and the distances from running statistics are means over the layers that have "
                "them. " + intervals,
                partial(_over_training, panel, SIGNALS),
            ),
        ]
    if "curvature" in probes:
        rows: list[Any] = [r for g in panel.groups for run in g.completed for r in run.probe_rows.get("curvature", ())]
        converged = sum(row.is_converged for row in rows)
        found.append(
            PageFigure(
                f"curvature{suffix}",
                f"Curvature{of_setting}",
                "Magnitude of the Hessian's eigenvalue of the largest magnitude, by power iteration, by training step; "
                f"{converged} of {len(rows)} measurements reached their tolerance. {intervals}",
                partial(_over_training, panel, CURVATURE),
            )
        )
    return found


def _over_training(panel: Panel, quantities: Sequence[Quantity]) -> Figure:
    """Draw curves; of many norms, the means over training, ranked, as so many lines could not be told apart."""
    if not has_few_lines([panel]):
        return _ranked(panel, quantities)
    shown = [
        _QuantityPanel(q.label, panel.groups, partial(over_training, quantity=q), q.is_log, "training step", q.limits)
        for q in quantities
    ]
    return _draw(panel, shown)


def _ranked(panel: Panel, quantities: Sequence[Quantity]) -> Figure:
    from matplotlib.figure import Figure

    num_columns = min(3, len(quantities))
    num_rows = -(-len(quantities) // num_columns)
    with figure_style():
        figure = Figure(figsize=(WIDTH, num_rows * (0.6 + 0.13 * len(panel.groups)) + 0.5))
        grid = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
        for axes, quantity in zip(grid, quantities, strict=False):
            _rank(axes, panel, quantity)
        add_heading(figure, f"{heading(panel.groups)}\nmean over training, then over seeds; bar: 95 % t interval")
        add_family_legend(figure, panel.groups)
        return fix_layout(figure)


def _rank(axes: Axes, panel: Panel, quantity: Quantity) -> None:
    found = [(group, mean_of_training(group, quantity)) for group in panel.groups]
    known = sorted(((estimate.mean, group, estimate) for group, estimate in found if estimate), key=lambda e: e[0])
    for row, (mean, group, estimate) in enumerate(known):
        color, marker = FAMILIES[family(group.norm)]
        half = estimate.half_width or 0.0
        low = min(half, 0.9 * mean) if quantity.is_log else half  # a logarithmic axis ends somewhere
        axes.errorbar([mean], [row], xerr=[[low], [half]], color=color, marker=marker, markersize=3, linewidth=0.8)
        add_hover(axes, mean, row, f"{group.label}: {mean:.3g} ± {half:.2g}")
    axes.set_yticks(range(len(known)), [group.label for _, group, _ in known], fontsize=6)
    axes.set_ylim(len(known) - 0.4, -0.6)
    axes.set_title(quantity.label, fontsize=7.5)
    axes.tick_params(axis="y", length=0)
    if not known:
        say_empty(axes)
    elif quantity.is_log:
        axes.set_xscale("log")
        _label_decades(axes.xaxis, axes.get_xlim(), num_labels=4)
    else:
        left, right = axes.get_xlim()
        axes.set_xlim(max(left, quantity.limits[0]), min(right, quantity.limits[1]))


def _over_layers(panel: Panel) -> Figure:
    """Draw curves over layers; of many norms, the last layer's numbers, ranked."""
    if not has_few_lines([panel]):
        return _ranked(panel, [Quantity("signals", q.label, _last(q.of), q.is_log, q.limits) for q in LAYERS])
    shown = [
        _QuantityPanel(q.label, panel.groups, partial(over_layers, quantity=q), q.is_log, "layer", q.limits)
        for q in LAYERS
    ]
    return _draw(panel, shown)


def _last(of: Callable[[Any], Sequence[float]]) -> Callable[[Any], float]:
    return lambda row: next(reversed(of(row)), math.nan)


def _draw(panel: Panel, shown: Sequence[_QuantityPanel]) -> Figure:
    """Draw one setting: a set of axes for each quantity, a line for each norm."""
    few = has_few_lines([panel])

    def draw(axes: Axes, quantity: _QuantityPanel, chosen: Styles) -> None:
        from matplotlib.ticker import MaxNLocator

        if quantity.is_log:
            axes.set_yscale("log")
        drawn = 0
        for group in quantity.groups:
            band = quantity.band(group)
            if band is not None:
                _draw_band(axes, group, band, chosen[group.norm, group.label], quantity, few)
                drawn += 1
        if not drawn:
            say_empty(axes)
        elif quantity.is_log:
            _label_decades(axes.yaxis, axes.get_ylim())
        else:
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, quantity.limits[0]), min(high, quantity.limits[1]))
        if len(shown) > 1:
            axes.set_title(quantity.title, fontsize=7.5)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
        label_axes(axes, quantity.x, "" if len(shown) > 1 else quantity.title, everywhere=True)
        axes.margins(x=0.03)

    return draw_panels(
        shown, draw, ["line: mean over seeds", *([interval_text([panel], "band")] if few else [])], share_y=False
    )


def _label_decades(axis: Axis, limits: tuple[float, float], num_labels: int = 6) -> None:
    """Write plain numbers at a logarithmic axis: powers of ten, and what lies between them where there are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = limits
    decades = math.log10(high / low)
    subs = (1.0,) if decades > 2 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs, numticks=num_labels) if decades > 0.9 else MaxNLocator(num_labels - 1))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _draw_band(axes: Axes, group: Group, band: Band, style: Style, quantity: _QuantityPanel, few: bool) -> None:
    if few and band.low is not None and band.high is not None:
        _fill(axes, band.x, band.low, band.high, style, 0.15)
    axes.plot(
        band.x, band.mean, color=style.color, linestyle=line_style(style), marker=style.marker,
        markersize=3, linewidth=1.2, markevery=max(1, band.x.size // 6),
    )  # fmt: skip
    for index, (x, y) in enumerate(zip(band.x, band.mean, strict=True)):
        spread = "" if band.low is None or band.high is None else f" [{band.low[index]:.3g}, {band.high[index]:.3g}]"
        add_hover(axes, x, y, f"{group.label}, {quantity.x} {x:g}: {y:.3g}{spread}")


def _loss_bands(panel: Panel) -> Figure:
    """Draw each norm's loss with its range along the gradient in axes of its own."""
    loss = Quantity("landscape", "loss", lambda row: row.loss)
    least = Quantity("landscape", "least", lambda row: row.loss_range[0])
    greatest = Quantity("landscape", "greatest", lambda row: row.loss_range[1])

    def draw(axes: Axes, group: Group, style: Style) -> None:
        at, low, high = (over_training(group, quantity) for quantity in (loss, least, greatest))
        if at is None or low is None or high is None:
            say_empty(axes)
            return
        shared, first, second = np.intersect1d(low.x, high.x, return_indices=True)
        _fill(axes, shared, low.mean[first], high.mean[second], style, 0.3)
        axes.plot(at.x, at.mean, color=style.color, linewidth=1.2, marker="o" if at.x.size == 1 else "", markersize=3)
        ends = dict(zip(high.x, high.mean, strict=True))
        for x, y in zip(at.x, at.mean, strict=True):
            top = f", up to {ends[x]:.3g}" if x in ends else ""
            add_hover(axes, x, y, f"{group.label}, step {x:g}: loss {y:.3g}{top} along the gradient")

    def draw_behind(axes: Axes, group: Group, color: str) -> None:
        at = over_training(group, loss)
        if at is not None:
            axes.plot(at.x, at.mean, color=color, linewidth=0.5, zorder=0.5, marker="." if at.x.size == 1 else "")

    explanation = "line: loss, mean over seeds; band: least to greatest loss along the gradient"
    limits = _limits([run.probe_rows.get("landscape", ()) for g in panel.groups for run in g.completed])
    return small_multiples(panel.groups, draw, draw_behind, "training step", "loss (nats)", explanation, limits)


def _fill(axes: Axes, x: Values, low: Values, high: Values, style: Style, alpha: float) -> None:
    """Fill between two curves; of one point, which has no width, draw the range as a bar."""
    if x.size == 1:
        axes.vlines(x, low, high, color=style.color, alpha=min(1.0, 2 * alpha), linewidth=4)
    else:
        axes.fill_between(x, low, high, color=style.color, alpha=alpha, linewidth=0)


def _limits(runs: Sequence[Sequence[Any]]) -> tuple[float, float]:
    """Return a scale on which bands can be compared: what explodes leaves the axes at the top."""
    losses = [row.loss for rows in runs for row in rows if math.isfinite(row.loss)]
    ends = [end for rows in runs for row in rows for end in row.loss_range if math.isfinite(end)]
    if not losses:
        return 0.0, 1.0
    return 0.0, 1.05 * min(max(ends), 2 * max(losses))


def _rate_bands(sections: Sequence[Section]) -> list[PageFigure]:
    """Return a figure of the training loss over learning rates for each setting in which they were swept."""
    found = [panel for sweep in sweeps(sections) if sweep.path == LEARNING_RATE for panel in sweep.panels]
    found = [panel for panel in found if any(run.task.has_epochs for group in panel.groups for run in group.runs)]
    figures = []
    for number, panel in enumerate(found[:MAX_SETTINGS], 1):
        of_setting = f": {panel.title}" if panel.title else ""
        figures.append(
            PageFigure(
                "rate_band" if number == 1 else f"rate_band_{number}",
                f"Training loss over learning rates{of_setting}",
                "Band: from the least to the greatest training loss among the learning rates, at each step, mean over "
                "seeds of each end; the loss of a run is its moving average. Runs that diverged are left out, and "
                "counted in the table.",
                partial(_rate_band, panel),
            )
        )
    return figures


def _rate_band(panel: Panel) -> Figure:
    by_norm: dict[str, list[Group]] = {}
    for group in panel.groups:
        by_norm.setdefault(group.label, []).append(group)
    bands = {label: _band_over_rates(groups) for label, groups in by_norm.items()}

    def draw(axes: Axes, group: Group, style: Style) -> None:
        band = bands[group.label]
        if band is None:
            say_empty(axes)
            return
        low, high = band
        steps = np.unique(np.linspace(0, low.size - 1, min(low.size, 400)).astype(int))
        axes.fill_between(steps + 1, low[steps], high[steps], color=style.color, alpha=0.5, linewidth=0)

    def draw_behind(axes: Axes, group: Group, color: str) -> None:
        return None

    rates = sorted({float(str(group.fields[LEARNING_RATE])) for group in panel.groups})
    explanation = f"band: least to greatest loss over learning rates {', '.join(f'{rate:g}' for rate in rates)}"
    first = [groups[0] for groups in by_norm.values()]
    return small_multiples(first, draw, draw_behind, "training step", "training loss (nats)", explanation)


def _band_over_rates(groups: Sequence[Group]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None:
    """Return the ends of the band of one norm: means over the seeds that completed with two rates or more."""
    by_seed: dict[int, list[Any]] = {}
    for group in groups:
        for run in group.completed:
            losses = finite_part(run.total_losses)
            by_seed.setdefault(run.config.seed, []).append(smooth(losses, smoothing_window(losses.size)))
    several = [curves for curves in by_seed.values() if len(curves) > 1]
    length = min((curve.size for curves in several for curve in curves), default=0)
    if not length:
        return None
    cut = [np.stack([curve[:length] for curve in curves]) for curves in several]
    return np.mean([c.min(axis=0) for c in cut], axis=0), np.mean([c.max(axis=0) for c in cut], axis=0)


def _grids(panel: Panel) -> list[Grid]:
    """Return the means over training of one setting, in numbers."""
    quantities = [
        quantity
        for quantity in (*LANDSCAPE[:4], *SIGNALS[:3], *CURVATURE)
        if any(has_probe(group, quantity.probe) for group in panel.groups)
    ]
    if not quantities:
        return []
    rows = tuple((group.label, *(_cell(group, quantity) for quantity in quantities)) for group in panel.groups)
    title = "Means over training" + (f": {panel.title}" if panel.title else "")
    caption = (
        "Mean of each run's measurements (geometric where the figure's axis is logarithmic), then mean ± half the 95 % "
        "t interval over seeds."
    )
    return [Grid(title, ("norm", *(quantity.label for quantity in quantities)), rows, caption)]


def _cell(group: Group, quantity: Quantity) -> str:
    estimate = mean_of_training(group, quantity)
    if estimate is None:
        return "-"
    spread = "" if estimate.half_width is None else f" ± {estimate.half_width:.2g}"
    return f"{estimate.mean:.3g}{spread}"
