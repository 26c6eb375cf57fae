"""Many norms without a tangle: each in axes of its own, with all the others in gray behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from normbench.report.figure_style import WIDTH, add_heading, count_text, figure_style, fix_layout
from normbench.report.grouping import Group
from normbench.report.heading import heading
from normbench.report.palette import Style, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 5
"""At most; as few as leave the rows equally long."""
_BEHIND = "#D0D0D0"


def small_multiples(
    groups: Sequence[Group],
    draw: Callable[[Axes, Group, Style], None],
    draw_behind: Callable[[Axes, Group, str], None],
    x: str,
    y: str,
    explanation: str,
    limits: tuple[float, float] | None = None,
    num_seeds: int | None = None,
) -> Figure:
    """Return a figure with one set of axes per group, in their order; all share both scales.

    Args:
        groups: the norms, of one setting.
        draw: draws a group in its style.
        draw_behind: draws a group as a thin line of a color.
        x: the name of the horizontal axes.
        y: the name of the vertical axes.
        explanation: what lines and bands mean.
        limits: the vertical axes' ends; what is drawn sets them where None.
        num_seeds: the seeds behind each curve, where these are not the groups' completed runs.
    """
    from matplotlib.figure import Figure

    num_rows = -(-len(groups) // _COLUMNS)
    num_columns = -(-len(groups) // num_rows)
    with figure_style():
        figure = Figure(figsize=(WIDTH, (1.05 if num_columns > 3 else 1.5) * num_rows + 0.75))
        grid = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
        chosen = styles((group.norm, group.label) for group in groups)
        for axes, group in zip(grid.flatten(), groups, strict=False):
            for other in groups:
                if other is not group:
                    draw_behind(axes, other, _BEHIND)
            draw(axes, group, chosen[group.norm, group.label])
            title = f"{group.label}, {count_text([group])}" if num_seeds is None else group.label
            axes.set_title(title, fontsize=7, pad=2)
            axes.tick_params(labelsize=6.5)
            if limits is not None:
                axes.set_ylim(*limits)
        for spare in grid.flatten()[len(groups) :]:
            spare.remove()
        for axes in grid.flatten()[len(groups) - num_columns : len(groups)]:
            axes.tick_params(labelbottom=True)  # the lowest of each column, also above a spare place
        figure.supxlabel(x, fontsize=8)
        figure.supylabel(y, fontsize=8)
        add_heading(figure, f"{heading(groups, num_seeds)}\n{explanation}; gray: the other norms")
        return fix_layout(figure)
