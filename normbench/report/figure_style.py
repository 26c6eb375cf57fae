"""What all figures share: their look, panels and legends, and how they become files.

Figures are `matplotlib.figure.Figure` objects on their own canvas: no pyplot, no state, no display, and no influence of
the user's matplotlibrc. The bytes of a file depend on nothing but its content.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from normbench.report.captions import describe_environment, describe_setting
from normbench.report.grouping import Group, Section, Setting
from normbench.report.palette import Style, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

WIDTH = 6.75
"""Inches: the text width of a two-column page."""
DPI = 200
MAX_PANELS = 24
MAX_CLEAR_LINES = 8
"""With more norms in a panel, thin lines and bands would hide the means and are left out."""
MAX_NARROW_LABEL = 16
"""Characters of legend entries of which four stand side by side."""
INK = "#333333"
"""Text and axes; the HTML report recolors exactly this."""
RULE = "#DDDDDD"
"""Grid lines; likewise."""

_LOOK: Mapping[str, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.handlelength": 4.4,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,  # TrueType: many venues reject the default Type 3
    "svg.fonttype": "none",
    "svg.hashsalt": "normbench",
    "path.simplify": True,
}


@dataclass(frozen=True)
class Panel:
    """One set of axes: groups that share everything but the norm."""

    title: str
    groups: tuple[Group, ...]


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw and save in this look, whatever matplotlib's settings are."""
    from matplotlib import style

    with style.context(["default", dict(_LOOK)]):
        yield


def panels(found: Sequence[Section]) -> list[Panel]:
    """Return a panel for every setting of every section."""
    return [
        Panel(setting_title(groups[0].setting, section if len(found) > 1 else None), groups)
        for section in found
        for groups in section.by_setting
    ]


def setting_title(setting: Setting, section: Section | None = None) -> str:
    """Write a setting as ``model resnet9, batch size 16``, after its section's environment where there are several."""
    where = describe_environment(section.environment) if section else ""
    return ", ".join(filter(None, [where, describe_setting(setting)]))


def new_figure(shown: Sequence[Panel], height: float = 3.3) -> tuple[Figure, list[Axes]]:
    """Return a figure with axes for each panel, at most `MAX_PANELS` of them."""
    from matplotlib.figure import Figure

    num_panels = min(len(shown), MAX_PANELS)
    num_entries = len({(group.norm, group.label) for panel in shown for group in panel.groups})
    if num_panels <= 1:
        figure = Figure(figsize=(WIDTH, max(height, 0.9 + 0.16 * num_entries)))
        return figure, [figure.add_subplot()]
    num_columns = 2 if num_panels in (2, 4) else 3
    num_rows = ceil(num_panels / num_columns)
    legend_height = 0.5 + 0.16 * ceil(num_entries / 4)
    figure = Figure(figsize=(WIDTH, 2.0 * num_rows + legend_height))
    grid = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False).flatten()
    for spare in grid[num_panels:]:
        spare.remove()
    for axes, panel in zip(grid, shown, strict=False):
        axes.set_title(panel.title)
    if len(shown) > MAX_PANELS:
        figure.suptitle(f"the first {MAX_PANELS} of {len(shown)} settings")
    return figure, list(grid[:num_panels])


def panel_styles(shown: Sequence[Panel]) -> dict[tuple[str, str], Style]:
    """Return the style of each ``(norm, label)`` over all panels."""
    return styles((group.norm, group.label) for panel in shown for group in panel.groups)


def add_legend(
    figure: Figure,
    shown: Sequence[Panel],
    explanation: Sequence[str],
    *,
    extra: Sequence[Line2D] = (),
    markers: bool = True,
) -> None:
    """Put one legend beside (or, for several panels, below) the axes: each norm with its n, and what the lines mean."""
    from matplotlib.lines import Line2D

    handles = []
    for (norm, label), style in panel_styles(shown).items():
        groups = [group for panel in shown for group in panel.groups if (group.norm, group.label) == (norm, label)]
        handle = Line2D([], [], color=style.color, label=f"{label}, {_count_text(groups)}")
        handle.set_linestyle(line_style(style))
        if markers:
            handle.set_marker(style.marker)
        handles.append(handle)
    several = len(shown) > 1
    entries = [*handles, *extra]
    longest = max((len(str(entry.get_label())) for entry in entries), default=0)
    figure.legend(
        handles=entries,
        loc="outside lower center" if several else "outside right upper",
        ncols=(4 if longest <= MAX_NARROW_LABEL else 3) if several else 1,
        title="; ".join(explanation).replace("\n", " ") if several else "\n".join(explanation),
        title_fontsize=7,
        alignment="left",
    )


def settle(figure: Figure) -> Figure:
    """Lay the figure out once and for all, so that its files agree and each is spared the work."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def _count_text(groups: Sequence[Group]) -> str:
    """Write how many completed runs stand behind a line, and how many diverged."""
    counts = sorted({len(group.completed) for group in groups})
    text = f"n={counts[0]}" if len(counts) == 1 else f"n={counts[0]}-{counts[-1]}"
    num_diverged = sum(group.states["diverged"] for group in groups)
    return f"{text}, {num_diverged} diverged" if num_diverged else text


def line_style(style: Style) -> Literal["-"] | tuple[float, tuple[float, ...]]:
    """Return what matplotlib takes for a dash pattern."""
    return (0, style.dash) if style.dash else "-"


def save_figure(figure: Figure, stem: Path, suffixes: Sequence[str] = (".png", ".pdf")) -> list[Path]:
    """Write `figure` to files named `stem` plus each suffix; each appears whole or not at all."""
    paths = []
    for suffix in suffixes:
        path = stem.with_name(stem.name + suffix)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            partial.write_bytes(figure_bytes(figure, suffix.removeprefix(".")))
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        paths.append(path)
    return paths


def figure_bytes(figure: Figure, kind: str, *, transparent: bool = False) -> bytes:
    """Return `figure` as a file of `kind` (png, pdf or svg), without dates or versions in it."""
    undated: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
        "svg": {"Date": None, "Creator": None},
    }
    buffer = io.BytesIO()
    with figure_style():
        figure.savefig(buffer, format=kind, dpi=DPI, metadata=undated[kind], transparent=transparent)
    return buffer.getvalue()
