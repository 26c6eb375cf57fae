"""Figures and numbers over a swept field: a measure against batch size or learning rate, one line per norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import log, log10
from typing import TYPE_CHECKING

from normbench.report.batch_one import CHANCE
from normbench.report.captions import capitalized, field_name
from normbench.report.figure_style import Panel, Styles, add_hover, draw_panels, line_style, setting_title
from normbench.report.grouping import Group, Scalar, Section, Setting, order_of_setting
from normbench.report.stats import Estimate, summarize
from normbench.report.task_report import PageFigure
from normbench.tasks import Measure
from normbench.tasks.classification import TEST_ACCURACY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BATCH_SIZE, LEARNING_RATE = "train.batch_size", "train.learning_rate"
MICRO_BATCH = "train.micro_batch"
"""Images that norms see at once; where it is not given, the batch."""
TOLERANCE = 0.01
"""A learning rate is as good as the best if its mean accuracy is less than one point below."""

DODGE = 1.025
"""Ratio by which lines stand apart horizontally, so that their intervals do not cover each other."""


@dataclass(frozen=True)
class Sweep:
    """Groups that differ in one swept number; a panel for each setting of everything else."""

    path: str
    panels: tuple[Panel, ...]


def sweeps(found: Sequence[Section]) -> list[Sweep]:
    """Return the sweeps over batch size, micro-batch and learning rate that the sections hold.

    A field that the swept one decides (the learning rate, by a rule, from the batch size) is not a sweep of its own.
    """
    sweeps: list[Sweep] = []
    for path in (BATCH_SIZE, MICRO_BATCH, LEARNING_RATE):
        panels = [panel for section in found for panel in _sweep_panels(section, path, len(found) > 1)]
        if panels:
            sweeps.append(Sweep(path, tuple(panels)))
    return sweeps


def _sweep_panels(section: Section, path: str, several: bool) -> list[Panel]:
    """Return a panel for each setting in which at least two values of `path` were run."""
    settings = [dict(group.setting) for group in section.groups]
    if not settings or path not in settings[0]:
        return []
    if path != BATCH_SIZE and _decides(settings, BATCH_SIZE, path):
        return []
    rest = [other for other in settings[0] if other != path and not _decides(settings, path, other)]
    by_rest: dict[Setting, list[Group]] = {}
    for group, setting in zip(section.groups, settings, strict=True):
        by_rest.setdefault(tuple((other, setting[other]) for other in rest), []).append(group)
    return [
        Panel(setting_title(key, section if several else None), tuple(by_rest[key]))
        for key in sorted(by_rest, key=order_of_setting)
        if len({group.fields[path] for group in by_rest[key]}) > 1
    ]


def _decides(settings: Sequence[dict[str, Scalar]], path: str, other: str) -> bool:
    """Return whether each value of `path` comes with one value of `other`."""
    if path not in settings[0]:
        return False
    return len({(setting[path], setting[other]) for setting in settings}) == len({s[path] for s in settings})


def sweep_figures(found: Sequence[Section], measure: Measure, suffix: str = "") -> list[PageFigure]:
    """Return a figure of `measure` for each sweep; the name of its file is the field's with `suffix`."""
    figures = []
    for sweep in sweeps(found):
        name, what = field_name(sweep.path), capitalized(measure.header)
        caption = (
            f"{what} after the last {'epoch' if found[0].task.has_epochs else 'step'}, by {name}; one line per norm, "
            "set slightly apart. Bands and bars are 95 % Student-t intervals of the mean over n completed runs, given "
            "in the legend."
        )
        stem = name.replace(" ", "_") + suffix
        figures.append(
            PageFigure(stem, f"{what} against {name}", caption, partial(sweep_figure, sweep, measure), is_sweep=True)
        )
    return figures


def sweep_figure(sweep: Sweep, measure: Measure) -> Figure:
    """Draw a measure against the swept field, mean and 95 % t interval over seeds."""
    empty: dict[Axes, list[tuple[float, str]]] = {}

    def draw(axes: Axes, panel: Panel, chosen: Styles) -> None:
        axes.set_xscale("log", base=10 if sweep.path == LEARNING_RATE else 2)
        lines: dict[tuple[str, str], list[Group]] = {}
        for group in panel.groups:
            lines.setdefault((group.norm, group.label), []).append(group)
        for position, (key, groups) in enumerate(lines.items()):
            groups.sort(key=lambda group: _x(group, sweep.path))
            dodge = DODGE ** (position - (len(lines) - 1) / 2)
            points = [
                (_x(group, sweep.path) * dodge, summarize(list(group.scores(measure).values()))) for group in groups
            ]
            empty.setdefault(axes, []).extend((x, chosen[key].color) for x, estimate in points if estimate is None)
            known = [(x, estimate) for x, estimate in points if estimate is not None]
            axes.errorbar(
                [x for x, _ in known],
                [measure.scale * estimate.mean for _, estimate in known],
                yerr=[measure.scale * (estimate.half_width or 0.0) for _, estimate in known],
                color=chosen[key].color,
                linestyle=line_style(chosen[key]),
                marker=chosen[key].marker,
                capsize=2,
                elinewidth=0.8,
            )
            for x, estimate in known:
                spread = "" if estimate.half_width is None else f" ± {measure.scale * estimate.half_width:.3g}"
                text = f"{key[1]}: {measure.scale * estimate.mean:.4g}{spread} {measure.unit}".rstrip()
                add_hover(axes, x, measure.scale * estimate.mean, text)

    without = any(not group.completed for panel in sweep.panels for group in panel.groups)
    return draw_panels(
        sweep.panels,
        draw,
        [
            "line: mean over seeds",
            "bar: 95 % t interval over n seeds",
            *(["x at the top: no completed run"] if without else []),
        ],
        finish=lambda axes, panel: _finish(axes, panel, sweep.path, measure, empty.get(axes, [])),
    )


def _finish(axes: Axes, panel: Panel, path: str, measure: Measure, empty: Sequence[tuple[float, str]]) -> None:
    """Label the axes and mark at their top where a norm has no result."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.0), min(high, 100.0) if high > low and measure.unit == "%" else high)
    for x, color in empty:
        axes.plot([x], [axes.get_ylim()[1]], marker="x", color=color, clip_on=False, zorder=4)
    axes.set_ylabel(f"{measure.header} ({measure.unit})" if measure.unit else measure.header)
    if path in (BATCH_SIZE, MICRO_BATCH):
        values = sorted({_x(group, path) for group in panel.groups})
        axes.xaxis.set_major_locator(FixedLocator(values))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.set_xlabel(
            "batch size (images)" if path == BATCH_SIZE else "micro-batch (images that a norm sees at once)"
        )
        if path == BATCH_SIZE:
            _add_steps(axes, panel, values)
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("learning rate")
    if axes.get_title() == "" and panel.title:
        axes.set_title(panel.title)


def _add_steps(axes: Axes, panel: Panel, batch_sizes: Sequence[float]) -> None:
    """Write above the axes how many steps a run of each batch size takes, which is what a large batch is short of."""
    from matplotlib.ticker import FixedLocator, NullLocator

    steps: dict[float, int] = {}
    for group in panel.groups:
        for run in group.completed:
            if run.summary is not None and run.summary.num_steps is not None:
                steps[_x(group, BATCH_SIZE)] = run.summary.num_steps
    known = [size for size in batch_sizes if size in steps]
    if not known:
        return
    above = axes.secondary_xaxis("top")
    above.xaxis.set_major_locator(FixedLocator(known))
    above.xaxis.set_minor_locator(NullLocator())
    above.set_xticks(known, [f"{steps[size]:,}" for size in known], fontsize=6)
    above.set_xlabel("training steps", fontsize=6.5)


def _x(group: Group, path: str) -> float:
    value = group.fields[path]
    if value is None and path == MICRO_BATCH:
        value = group.fields[BATCH_SIZE]
    assert isinstance(value, int | float)
    return float(value)


@dataclass(frozen=True)
class BestRate:
    """The best learning rate, and the others that are as good."""

    rate: float
    accuracy: Estimate
    low: float
    high: float
    """Ends of the unbroken range of rates around the best whose mean is within `TOLERANCE` of it."""

    @property
    def decades(self) -> float:
        """Width of that range in powers of ten."""
        return log10(self.high / self.low)


@dataclass(frozen=True)
class Sensitivity:
    """A norm's sensitivity to the learning rate, among the rates that were run."""

    label: str
    title: str
    """The panel's setting; empty where there is one."""
    best: BestRate | None
    """None where no run completed."""
    fails_from: float | None
    """The lowest rate at which a run diverged, or in its last epoch had a loss no lower than a guess's."""
    highest_rate: float
    """The highest rate that was run."""


def learning_rate_sensitivities(sections: Sequence[Section]) -> list[Sensitivity]:
    """Return the sensitivities of the norms of those sections that are of classifiers."""
    classifiers = [section for section in sections if TEST_ACCURACY in section.task.measures]
    return [
        entry
        for sweep in sweeps(classifiers)
        if sweep.path == LEARNING_RATE
        for entry in learning_rate_sensitivity(sweep)
    ]


def learning_rate_sensitivity(sweep: Sweep) -> list[Sensitivity]:
    """Return best rate, good range and first failing rate of each norm in each panel."""
    found = []
    for panel in sweep.panels:
        for norm, label in dict.fromkeys((group.norm, group.label) for group in panel.groups):
            groups = [group for group in panel.groups if (group.norm, group.label) == (norm, label)]
            groups.sort(key=lambda group: _x(group, sweep.path))
            rates = [_x(group, sweep.path) for group in groups]
            failed = [rate for rate, group in zip(rates, groups, strict=True) if _failed(group)]
            found.append(
                Sensitivity(label, panel.title, _best_rate(rates, groups), min(failed, default=None), rates[-1])
            )
    return found


def _failed(group: Group) -> bool:
    """Return whether a run of the group diverged or learned nothing: too high a rate ends in one or the other."""
    return group.states["diverged"] > 0 or any(
        run.summary is not None and run.summary.train_loss >= -log(CHANCE) for run in group.completed
    )


def _best_rate(rates: Sequence[float], groups: Sequence[Group]) -> BestRate | None:
    """Return the best of ascending `rates`; None where no run completed."""
    estimates = [summarize(list(group.scores(TEST_ACCURACY).values())) for group in groups]
    means = [estimate.mean if estimate else -1.0 for estimate in estimates]
    low = high = best = max(range(len(groups)), key=lambda index: means[index])
    accuracy = estimates[best]
    if accuracy is None:
        return None
    while low > 0 and means[low - 1] > means[best] - TOLERANCE:
        low -= 1
    while high < len(groups) - 1 and means[high + 1] > means[best] - TOLERANCE:
        high += 1
    return BestRate(rates[best], accuracy, rates[low], rates[high])
