"""Norms ranked by their result: a dot and its interval in each row, the best at the top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from normbench.norms import NORMS, SEQUENCE_NORMS
from normbench.report.figure_style import (
    INK,
    MAX_PANELS,
    RULE,
    WIDTH,
    Panel,
    add_heading,
    add_hover,
    figure_style,
    fix_layout,
)
from normbench.report.grouping import Group
from normbench.report.heading import heading
from normbench.report.palette import BLUE, GRAY, GREEN, VERMILLION
from normbench.report.stats import Estimate, summarize
from normbench.tasks import Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAMILIES = {
    "statistics of the batch": (BLUE, "o"),
    "statistics of one sample": (VERMILLION, "s"),
    "no statistics": (GREEN, "D"),
    "not in NormBench's catalog": (GRAY, "X"),
}
"""Color and marker of each family of norms."""


def ranking(shown: Sequence[Panel], measure: Measure) -> Figure:
    """Draw each norm's mean and 95 % t interval over seeds: a panel per setting, the best norm first in each."""
    from matplotlib.figure import Figure

    shown = shown[:MAX_PANELS]
    num_rows = max(len(panel.groups) for panel in shown)
    num_columns = min(2, len(shown))
    num_lines = -(-len(shown) // num_columns)
    with figure_style():
        figure = Figure(figsize=(WIDTH, num_lines * (0.55 + 0.155 * num_rows) + 0.55))
        grid = figure.subplots(num_lines, num_columns, sharex=True, squeeze=False).flatten()
        for spare in grid[len(shown) :]:
            spare.remove()
        for axes, panel in zip(grid, shown, strict=False):
            _draw(axes, panel, measure)
        add_heading(figure, heading([group for panel in shown for group in panel.groups]))
        add_family_legend(figure, [group for panel in shown for group in panel.groups])
        return fix_layout(figure)


def family(norm: str) -> str:
    """Return the family of a norm's key (``gn+ws``): a key of `FAMILIES`."""
    base = norm.partition("+")[0]
    entry = NORMS.get(base) or SEQUENCE_NORMS.get(base)
    if entry is None:
        return "not in NormBench's catalog"
    if entry.batch_dependent:
        return "statistics of the batch"
    return "no statistics" if entry.axes == "none" else "statistics of one sample"


def _draw(axes: Axes, panel: Panel, measure: Measure) -> None:
    found = [(group, summarize(list(group.scores(measure).values()))) for group in panel.groups]
    found.sort(key=lambda pair: _order(pair[1], measure))
    for row, (group, estimate) in enumerate(found):
        if estimate is None:
            axes.text(0.99, row, "no completed run", transform=axes.get_yaxis_transform(), ha="right", va="center")
            continue
        color, marker = FAMILIES[family(group.norm)]
        half_width = None if estimate.half_width is None else measure.scale * estimate.half_width
        axes.errorbar(
            [measure.scale * estimate.mean], [row], xerr=None if half_width is None else [half_width],
            color=color, marker=marker, capsize=2, linewidth=1, linestyle="none", zorder=3,
        )  # fmt: skip
        spread = "" if half_width is None else f" ± {half_width:{measure.format}}"
        text = f"{group.label}: {measure.scale * estimate.mean:{measure.format}}{spread} {measure.unit}".rstrip()
        add_hover(axes, measure.scale * estimate.mean, row, text)
    axes.set_yticks(range(len(found)), [_row_label(group) for group, _ in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.grid(visible=True, axis="y", color=RULE, linewidth=0.3)
    axes.set_title(panel.title)
    axes.set_xlabel(f"{measure.header} ({measure.unit})" if measure.unit else measure.header)
    axes.tick_params(axis="y", length=0)


def _row_label(group: Group) -> str:
    diverged = group.states["diverged"]
    return f"{group.label} ({diverged} diverged)" if diverged else group.label


def _order(estimate: Estimate | None, measure: Measure) -> tuple[bool, float]:
    if estimate is None:
        return True, 0.0
    return False, -estimate.mean if measure.higher_is_better else estimate.mean


def add_family_legend(figure: Figure, groups: Sequence[Group]) -> None:
    """Say below the axes which family each color and marker is."""
    from matplotlib.lines import Line2D

    families = {family(group.norm) for group in groups}

    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="none", label=name)
        for name, (color, marker) in FAMILIES.items()
        if name in families
    ]
    handles.append(Line2D([], [], color=INK, linewidth=1, label="95 % t interval over n seeds"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), handlelength=1.5)
