"""Curves of loss against iteration, and of accuracy by epoch and by time, as matplotlib figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from normbench.report.figure_style import (
    MARKER_SIZE,
    MAX_PANELS,
    Panel,
    Styles,
    add_hover,
    draw_panels,
    has_few_lines,
    interval_text,
    label_axes,
    label_ends,
    line_style,
    say_empty,
)
from normbench.report.grouping import Group
from normbench.report.palette import Style, styles
from normbench.report.small_multiples import small_multiples
from normbench.report.stats import mean_band, summarize
from normbench.runs.records import RunRecord
from normbench.tasks.classification import TEST_ACCURACY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Curve = NDArray[np.float64]

SMOOTHING = 0.03
"""Width of the moving average as a share of the longest run."""
MAX_POINTS = 1500
"""Longer raw lines are drawn by the least and the greatest value of each stretch, which looks the same."""
NUM_MARKERS = 7


@dataclass(frozen=True)
class Loss:
    """A loss of the training steps: its column in `RunRecord.step_losses` and how it is drawn."""

    column: int
    label: str
    is_log: bool = False


@dataclass(frozen=True)
class _LossPanel(Panel):
    loss: Loss


@dataclass(frozen=True)
class _TimePanel(Panel):
    epoch_seconds: Mapping[str, float]


_MOVING_AVERAGE = f"thick: moving average over {100 * SMOOTHING:g} % of the steps"
TRAINING_LOSS = Loss(0, "training loss (nats)")


def loss_curves(shown: Sequence[Panel], losses: Sequence[Loss] = (TRAINING_LOSS,)) -> Figure:
    """Draw losses against iteration: each step thin, the moving average thick, seeds combined."""
    panels = [_LossPanel(panel.title, panel.groups, loss) for panel in shown for loss in losses]
    few = has_few_lines(shown)
    if len(panels) == 1 and not few:
        return _many_losses(panels[0])
    limits = {
        loss: _loss_limits([panel for panel in panels[:MAX_PANELS] if panel.loss == loss], few) for loss in losses
    }

    def draw(axes: Axes, panel: _LossPanel, chosen: Styles) -> None:
        if panel.loss.is_log:
            _log_scale(axes)
        axes.set_ylim(*limits[panel.loss])
        window = smoothing_window(max((len(run.step_losses) for run in _runs([panel])), default=0))
        for position, group in enumerate(panel.groups):
            offset = position / len(panel.groups)
            _draw_loss(axes, group, panel.loss, chosen[group.norm, group.label], window, offset, few)
        label_axes(axes, "iteration", panel.loss.label, everywhere=len(losses) > 1)
        if not any(run.step_losses.size for run in _runs([panel])):
            say_empty(axes)

    def finish(axes: Axes, panel: _LossPanel) -> None:
        if len(panels) == 1:
            label_ends(axes, _loss_ends(panel))

    explanation = [_MOVING_AVERAGE]
    if few:
        explanation += ["thin: loss of each step, mean over seeds", interval_text(shown, "band")]
    return draw_panels(panels, draw, explanation, finish=finish, extra=_end_marks(shown), share_y=len(losses) == 1)


def accuracy_curves(shown: Sequence[Panel]) -> Figure:
    """Draw test accuracy by epoch: the mean over seeds and its 95 % t interval."""
    from matplotlib.ticker import MaxNLocator

    few = has_few_lines(shown)
    if len(shown) == 1 and not few:
        return _many_accuracies(shown[0])

    def draw(axes: Axes, panel: Panel, chosen: Styles) -> None:
        for group in panel.groups:
            _draw_accuracy(axes, group, chosen[group.norm, group.label], few)
        if not few:
            _draw_last_intervals(axes, panel, chosen)
        last = max((len(run.epochs) for run in _runs([panel])), default=1)
        ticks = MaxNLocator(integer=True, min_n_ticks=1).tick_values(1, max(2, last))
        axes.set_xticks([tick for tick in ticks if 1 <= tick <= last])
        label_axes(axes, "epoch", "test accuracy (%)")
        if not any(run.epochs for run in _runs([panel])):
            say_empty(axes)
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -2.0), min(high, 102.0))

    bars = "bars at the right: 95 % t interval\nover n seeds, after the last epoch"
    explanation = ["line: mean over seeds", interval_text(shown, "band") if few else bars]
    return draw_panels(shown, draw, explanation, finish=_label_accuracies(shown), extra=_end_marks(shown))


def accuracy_over_time(shown: Sequence[Panel], epoch_seconds: Sequence[Mapping[str, float]]) -> Figure:
    """Draw mean test accuracy after each epoch against the mean training time until then, evaluation excluded.

    `epoch_seconds` gives for each panel, by label, how long an epoch takes; for those without, the runs themselves,
    unless they shared the device with others.
    """
    panels = [_TimePanel(panel.title, panel.groups, known) for panel, known in zip(shown, epoch_seconds, strict=True)]
    few = has_few_lines(shown)

    def draw(axes: Axes, panel: _TimePanel, chosen: Styles) -> None:
        for group in panel.groups:
            seconds = panel.epoch_seconds.get(group.label)
            if timed := timed_runs(group, seconds):
                _draw_accuracy_over_time(axes, timed, chosen[group.norm, group.label], seconds, few)
        label_axes(axes, "training time (s)", "test accuracy (%)")

    explanation = ["line: mean over seeds after each epoch", *([interval_text(shown, "bar")] if few else [])]
    return draw_panels(panels, draw, explanation, finish=_label_accuracies(shown))


def timed_runs(group: Group, epoch_seconds: float | None) -> list[RunRecord]:
    """Return the completed runs whose training time is known: by their norm's timing, or because they ran alone."""
    return [run for run in group.completed if epoch_seconds is not None or run.runs_at_once == 1]


def _many_losses(panel: _LossPanel) -> Figure:
    limits = _loss_limits([panel], show_raw=False)
    window = smoothing_window(max((len(run.step_losses) for run in _runs([panel])), default=0))

    def draw(axes: Axes, group: Group, style: Style) -> None:
        axes.set_ylim(*limits)
        _draw_loss(axes, group, panel.loss, style, window, 0.0, few=True)

    def draw_behind(axes: Axes, group: Group, color: str) -> None:
        mean = _mean([_losses(run, panel.loss) for run in group.completed])
        if mean.size:
            axes.plot(*_every(smooth(mean, window)), color=color, linewidth=0.5, zorder=0.5)

    explanation = "; ".join([_MOVING_AVERAGE, interval_text([panel], "band"), *_end_words([panel])])
    return small_multiples(panel.groups, draw, draw_behind, "iteration", panel.loss.label, explanation, limits)


def _many_accuracies(panel: Panel) -> Figure:
    def draw(axes: Axes, group: Group, style: Style) -> None:
        _draw_accuracy(axes, group, style, few=True)

    def draw_behind(axes: Axes, group: Group, color: str) -> None:
        mean = _mean([np.array([100 * epoch.test_accuracy for epoch in run.epochs]) for run in group.completed])
        if mean.size:
            axes.plot(np.arange(1, mean.size + 1), mean, color=color, linewidth=0.5, zorder=0.5)

    explanation = "; ".join(["line: mean over seeds", interval_text([panel], "band"), *_end_words([panel])])
    return small_multiples(panel.groups, draw, draw_behind, "epoch", "test accuracy (%)", explanation)


def _mean(curves: Sequence[Curve]) -> Curve:
    """Return the mean of `curves` as far as all go; empty without any."""
    length = min((curve.size for curve in curves), default=0)
    return np.mean([curve[:length] for curve in curves], axis=0) if length else np.empty(0)


def _loss_ends(panel: _LossPanel) -> list[tuple[float, str, str]]:
    """Return the last smoothed loss of each norm with a completed run, the norm's name, and its color."""
    chosen = styles((group.norm, group.label) for group in panel.groups)
    found = []
    for group in panel.groups:
        mean = _mean([_losses(run, panel.loss) for run in group.completed])
        if mean.size:
            last = float(smooth(mean, smoothing_window(mean.size))[-1])
            found.append((last, f"{group.label} {last:.3g}", chosen[group.norm, group.label].color))
    return found


def _label_accuracies(shown: Sequence[Panel]) -> Callable[[Axes, Panel], None]:
    """Return what writes each norm's last accuracy beside its line, where there is one panel."""

    def finish(axes: Axes, panel: Panel) -> None:
        if len(shown) > 1:
            return
        chosen = styles((group.norm, group.label) for group in panel.groups)
        ends = []
        for group in panel.groups:
            estimate = summarize(list(group.scores(TEST_ACCURACY).values()))
            if estimate is not None:
                spread = "" if estimate.half_width is None else f" ± {100 * estimate.half_width:.2f}"
                text = f"{group.label} {100 * estimate.mean:.2f}{spread}"
                ends.append((100 * estimate.mean, text, chosen[group.norm, group.label].color))
        label_ends(axes, ends)

    return finish


def smoothing_window(num_steps: int) -> int:
    """Return the odd number of steps that the moving average of a run of `num_steps` spans."""
    return 2 * (int(num_steps * SMOOTHING) // 2) + 1


def smooth(losses: Curve, window: int) -> Curve:
    """Return the centered moving average; near the start the window shrinks, so that the first value stays itself."""
    index = np.arange(losses.size)
    half = window // 2
    first = np.maximum(index - half, 0)
    last = np.minimum(np.minimum(index + half, 2 * index), losses.size - 1)
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    return np.asarray((sums[last + 1] - sums[first]) / (last - first + 1), dtype=np.float64)


def thin_out(values: Curve, max_points: int = MAX_POINTS) -> tuple[Curve, Curve]:
    """Return steps (1 is the first) and values of at most about `max_points` points, extremes kept."""
    steps = np.arange(1, values.size + 1, dtype=np.float64)
    if values.size <= max_points:
        return steps, values
    edges = np.linspace(0, values.size, max_points // 2 + 1).astype(int)
    kept: set[int] = {0, values.size - 1}
    for start, stop in pairwise(edges):
        kept.update((start + int(values[start:stop].argmin()), start + int(values[start:stop].argmax())))
    index = np.array(sorted(kept))
    return steps[index], values[index]


def finite_part(losses: Curve) -> Curve:
    """Return the losses before the first that is not finite."""
    broken = np.flatnonzero(~np.isfinite(losses))
    return losses[: broken[0]] if broken.size else losses


def _draw_loss(axes: Axes, group: Group, loss: Loss, style: Style, window: int, offset: float, few: bool) -> None:
    """Draw the mean of the completed runs, and every other run by itself."""
    completed = [_losses(run, loss) for run in group.completed]
    length = min((losses.size for losses in completed), default=0)
    if length:
        raw = np.stack([losses[:length] for losses in completed])
        mean, half_width = mean_band(np.stack([smooth(losses, window) for losses in raw]))
        steps, drawn = _every(mean)
        if few:
            axes.plot(*thin_out(raw.mean(axis=0)), color=style.color, linewidth=0.4, alpha=0.35, zorder=1)
        if few and half_width is not None:
            _, half = _every(half_width)
            low = np.maximum(drawn - half, drawn / 10) if loss.is_log else drawn - half  # a log axis ends somewhere
            axes.fill_between(steps, low, drawn + half, color=style.color, alpha=0.18, linewidth=0, zorder=2)
        spacing = max(1, steps.size // NUM_MARKERS)
        axes.plot(
            steps,
            drawn,
            color=style.color,
            linestyle=line_style(style),
            marker=style.marker,
            markevery=(int(offset * spacing), spacing),
            zorder=3,
        )
        for step, value in zip(steps[::spacing], drawn[::spacing], strict=True):
            add_hover(axes, step, value, f"{group.label}, step {step:g}: {value:.4g}")
    for run in group.runs:
        losses = _losses(run, loss)
        if not run.is_completed and losses.size:
            _draw_unfinished(axes, run, style, *_every(smooth(losses, window)), top=axes.get_ylim()[1])


def _draw_accuracy(axes: Axes, group: Group, style: Style, few: bool) -> None:
    completed = [[100 * epoch.test_accuracy for epoch in run.epochs] for run in group.completed]
    length = min((len(accuracies) for accuracies in completed), default=0)
    if length:
        mean, half_width = mean_band([accuracies[:length] for accuracies in completed])
        epochs = np.arange(1, length + 1)
        if few and half_width is not None and length > 1:
            axes.fill_between(epochs, mean - half_width, mean + half_width, color=style.color, alpha=0.18, linewidth=0)
        axes.errorbar(
            epochs,
            mean,
            yerr=half_width if few and length == 1 else None,
            capsize=3,
            color=style.color,
            linestyle=line_style(style),
            marker=style.marker,
            markevery=max(1, length // 12),
        )
        for index, (epoch, accuracy) in enumerate(zip(epochs, mean, strict=True)):
            spread = "" if half_width is None else f" ± {half_width[index]:.2f}"
            add_hover(axes, float(epoch), accuracy, f"{group.label}, epoch {epoch}: {accuracy:.2f}{spread} %")
    for run in group.runs:
        if not run.is_completed and run.epochs:
            accuracies = np.array([100 * epoch.test_accuracy for epoch in run.epochs])
            _draw_unfinished(axes, run, style, np.arange(1.0, accuracies.size + 1), accuracies, top=100.0)


def _draw_accuracy_over_time(
    axes: Axes, completed: Sequence[RunRecord], style: Style, epoch_seconds: float | None, few: bool
) -> None:
    """Draw the mean of completed runs against their mean time; an epoch takes `epoch_seconds` where it is known."""
    length = min(len(run.epochs) for run in completed)
    runs = [run.epochs[:length] for run in completed]
    seconds = np.array([[epoch_seconds or epoch.train_seconds for epoch in epochs] for epochs in runs])
    accuracy = np.array([[100 * epoch.test_accuracy for epoch in epochs] for epochs in runs])
    mean, half_width = mean_band(accuracy)
    axes.errorbar(
        seconds.cumsum(axis=1).mean(axis=0),
        mean,
        yerr=half_width if few else None,
        color=style.color,
        linestyle=line_style(style),
        marker=style.marker,
        markevery=max(1, length // 12),
        errorevery=max(1, length // 12),
        elinewidth=0.8,
        capsize=2,
    )


def _draw_last_intervals(axes: Axes, panel: Panel, chosen: Styles) -> None:
    """Draw the interval of each norm's last accuracy side by side right of the curves; the means keep the scale."""
    limits = axes.get_ylim()
    last = max((len(run.epochs) for run in _runs([panel])), default=1)
    step = 0.25 * max(1, last - 1) / len(panel.groups)
    for position, group in enumerate(panel.groups, start=1):
        estimate = summarize(list(group.scores(TEST_ACCURACY).values()))
        if estimate is not None and estimate.half_width is not None:
            x, mean, half_width = last + position * step, 100 * estimate.mean, 100 * estimate.half_width
            color = chosen[group.norm, group.label].color
            axes.errorbar([x], [mean], yerr=[half_width], color=color, marker="_", capsize=0, linewidth=1)
    axes.set_ylim(*limits)


def _draw_unfinished(axes: Axes, run: RunRecord, style: Style, x: Curve, y: Curve, top: float) -> None:
    """Draw a run that entered no mean: a thin line whose end, at most at `top`, says what became of it."""
    axes.plot(x, y, color=style.color, linewidth=0.8, linestyle=line_style(style), zorder=2.5)
    axes.plot(
        x[-1:],
        np.minimum(y[-1:], top),
        color=style.color,
        marker="x" if run.status.state == "diverged" else "o",
        markerfacecolor="none",
        markersize=6,
        clip_on=False,
        zorder=4,
    )


def _losses(run: RunRecord, loss: Loss) -> Curve:
    return finite_part(run.step_losses[:, loss.column])


def _log_scale(axes: Axes) -> None:
    """Make the vertical axis logarithmic, with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter

    def plain(value: float, _position: int) -> str:
        return f"{value:g}" if f"{value:e}"[0] in "125" else ""

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(plain))
    axes.yaxis.set_minor_formatter(FuncFormatter(plain))


def _loss_limits(shown: Sequence[_LossPanel], show_raw: bool) -> tuple[float, float]:
    """Return one scale for all panels, set by the completed runs, so that an exploding one does not flatten them."""
    loss = shown[0].loss if shown else TRAINING_LOSS
    runs = [run for run in _runs(shown) if run.status.state == "completed"] or _runs(shown)
    drawn = [losses for run in runs if (losses := _losses(run, loss)).size]
    if not drawn:
        return (0.1, 1.0) if loss.is_log else (0.0, 1.0)
    smoothed = [smooth(losses, smoothing_window(losses.size)) for losses in drawn]
    top = max(float(np.percentile(losses, 99.8)) for losses in (drawn if show_raw else smoothed))
    bottom = min(float(losses.min()) for losses in smoothed)
    if loss.is_log:
        return 0.9 * max(bottom, 1e-4 * top), 1.1 * top
    return max(0.0, bottom - 0.12 * (top - bottom)), top + 0.04 * (top - bottom) + 1e-9


def _runs(shown: Sequence[Panel]) -> list[RunRecord]:
    return [run for panel in shown for group in panel.groups for run in group.runs]


def _every(values: Curve) -> tuple[Curve, Curve]:
    """Return steps and values of at most `MAX_POINTS` equally spaced points, for lines that are smooth already."""
    index = np.unique(np.linspace(0, values.size - 1, min(values.size, MAX_POINTS)).astype(int))
    return index + 1.0, values[index]


def _end_words(shown: Sequence[Panel]) -> list[str]:
    """Return what the marks at the ends of single lines mean, in words."""
    return [f"{'cross' if mark.get_marker() == 'x' else 'ring'}: {mark.get_label()}" for mark in _end_marks(shown)]


def _end_marks(shown: Sequence[Panel]) -> list[Line2D]:
    """Return legend entries for the ends of lines that stopped early, where there are any."""
    from matplotlib.lines import Line2D

    states = {run.status.state for run in _runs(shown)}
    marks = []
    if "diverged" in states:
        marks.append(
            Line2D([], [], color="#7A7A7A", linewidth=0.8, marker="x", markersize=MARKER_SIZE, label="diverged there")
        )
    if states & {"failed", "interrupted", "running"}:
        mark = Line2D([], [], color="#7A7A7A", linewidth=0.8, marker="o", markersize=MARKER_SIZE, label="unfinished")
        mark.set_markerfacecolor("none")
        marks.append(mark)
    return marks
