"""A forest plot: each norm's difference to the baseline in every setting, with its interval and its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from normbench.report.comparison_table import Row, Table
from normbench.report.figure_style import INK, RULE, WIDTH, add_heading, figure_style, fix_layout, setting_title
from normbench.report.grouping import Section
from normbench.report.heading import heading
from normbench.report.palette import BLUE, GRAY, GREEN, VERMILLION
from normbench.report.task_report import PageFigure
from normbench.tasks import Measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_ROWS = 80
"""More do not fit on a page; the table has them all."""
VERDICTS = {"better": (GREEN, "^"), "worse": (VERMILLION, "v"), "equivalent": (BLUE, "s"), "not resolved": (GRAY, "o")}
"""Color and marker of each verdict."""


def forest(sections: Sequence[Section], tables: Sequence[Table], measure: Measure) -> list[PageFigure]:
    """Return the forest plot over all settings; nothing for a single one, or where no difference has an interval."""
    settings = [
        (section, table, [row for row in table.rows if row.setting == groups[0].setting and _is_shown(row, measure)])
        for section, table in zip(sections, tables, strict=True)
        for groups in section.by_setting
    ]
    shown = [found for found in settings if found[2]]
    if len(shown) < 2:
        return []
    caption = (
        f"Differences in {measure.header} to the baseline, with 95 % intervals, by norm and setting. The gray band is "
        "the margin of equivalence; color and marker are the verdict."
    )
    num_rows = sum(len(rows) for _, _, rows in shown)
    if num_rows > MAX_ROWS:
        caption += f" Only the first {MAX_ROWS} of {num_rows} comparisons are drawn."
    return [
        PageFigure("forest", "Differences in every setting", caption, partial(_figure, shown, measure), is_sweep=True)
    ]


def _is_shown(row: Row, measure: Measure) -> bool:
    comparison = row.results[measure.name].comparison
    return comparison is not None and comparison.difference.estimate.half_width is not None


def _figure(shown: Sequence[tuple[Section, Table, Sequence[Row]]], measure: Measure) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    sections = list(dict.fromkeys(id(section) for section, _, _ in shown))
    labels = dict.fromkeys(row.label for _, _, rows in shown for row in rows)
    ordered = [
        (setting_title(row.setting, section if len(sections) > 1 else None), row)
        for label in labels
        for section, _, rows in shown
        for row in rows
        if row.label == label
    ][:MAX_ROWS]
    margin = shown[0][1].margins[measure.name]
    with figure_style():
        figure = Figure(figsize=(WIDTH, 1.4 + 0.17 * len(ordered)))
        axes = figure.subplots()
        if not measure.margin_is_relative:
            axes.axvspan(-measure.scale * margin, measure.scale * margin, color=RULE, alpha=0.6, linewidth=0)
        axes.axvline(0, color=INK, linewidth=0.6)
        for height, (_, row) in enumerate(ordered):
            comparison = row.results[measure.name].comparison
            assert comparison is not None
            estimate = comparison.difference.estimate
            color, marker = VERDICTS[comparison.verdict]
            axes.errorbar(
                [measure.scale * estimate.mean], [height], xerr=[measure.scale * (estimate.half_width or 0.0)],
                color=color, marker=marker, capsize=2, linewidth=1, linestyle="none", zorder=3,
            )  # fmt: skip
            if height and ordered[height - 1][1].label != row.label:
                axes.axhline(height - 0.5, color=RULE, linewidth=0.5)
        axes.set_yticks(range(len(ordered)), [f"{row.label}, {title}" for title, row in ordered])
        axes.set_ylim(len(ordered) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        unit = f" ({measure.difference_unit})" if measure.difference_unit else ""
        axes.set_xlabel(f"difference in {measure.header} to {shown[0][1].baseline}{unit}")
        add_heading(figure, heading([group for section, _, _ in shown for group in section.groups]))
        handles = [
            Line2D([], [], color=color, marker=marker, linestyle="none", label=verdict)
            for verdict, (color, marker) in VERDICTS.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), handlelength=1.5)
        return fix_layout(figure)
