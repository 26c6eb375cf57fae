"""The look, panels and legends that all figures share, and how figures become files.

Figures are `matplotlib.figure.Figure` objects on their own canvas: no pyplot, no state, no display, and no influence of
the user's matplotlibrc. The bytes of a file depend on nothing but its content.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from normbench.report.captions import describe_environment, describe_setting
from normbench.report.grouping import Group, Section, Setting
from normbench.report.heading import heading
from normbench.report.palette import Style, styles
from normbench.runs.atomic import write_bytes_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

WIDTH = 6.75
"""The width of figures in inches: the text width of a two-column page."""
DPI = 200
MARKER_SIZE = 4
"""The size of markers in points."""
MAX_PANELS = 24
MAX_CLEAR_LINES = 8
"""With more norms in a panel, thin lines and bands would hide the means and are left out."""
MAX_NARROW_LABEL = 16
"""The most characters of legend entries of which four stand side by side."""
INK = "#333333"
"""The color of text and axes, which the HTML report replaces on a dark page."""
FIGURE_SUFFIXES = (".png", ".pdf")
"""The files of a figure."""
HOVER = "hover: "
"""How the id of a point begins that says something under the pointer (`html.inline_svg`)."""
RULE = "#DDDDDD"
"""The color of grid lines, which the HTML report replaces on a dark page."""

_LOOK: Mapping[str, Any] = {
    "figure.dpi": DPI,  # laid out at the resolution of files: letters are not as wide at every one
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
    "lines.markersize": MARKER_SIZE,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.06,
    "pdf.fonttype": 42,  # TrueType: many venues reject the default Type 3
    "svg.fonttype": "none",
    "svg.hashsalt": "normbench",
    "path.simplify": True,
    "text.parse_math": False,  # a label may have dollars in it
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
    """Write a setting as ``model resnet9, batch size 16``, after its section's rates or environment if given."""
    where = section.rates_text or describe_environment(section.environment) if section else ""
    return ", ".join(filter(None, [where, describe_setting(setting)]))


Styles = Mapping[tuple[str, str], Style]
"""A style for each ``(norm, label)``."""


P = TypeVar("P", bound=Panel)


def draw_panels(
    shown: Sequence[P],
    draw: Callable[[Axes, P, Styles], None],
    explanation: Sequence[str],
    *,
    finish: Callable[[Axes, P], None] | None = None,
    extra: Sequence[Line2D] = (),
    share_y: bool = True,
) -> Figure:
    """Return a figure of `shown`, each panel drawn by `draw`, with a legend that says what lines mean.

    `finish` is called for each panel when all are drawn, because panels that share an axis share its limits.
    """
    with figure_style():
        figure, all_axes = _new_figure(shown, share_y)
        groups = [group for panel in shown for group in panel.groups]
        chosen = styles((group.norm, group.label) for group in groups)
        add_heading(figure, heading(groups))
        for axes, panel in zip(all_axes, shown, strict=False):
            draw(axes, panel, chosen)
        for axes, panel in zip(all_axes, shown, strict=False):
            if finish is not None:
                finish(axes, panel)
        _add_legend(figure, shown, chosen, explanation, extra)
        return fix_layout(figure)


def add_heading(figure: Figure, text: str) -> None:
    """Write what was trained above the axes, behind what stands there already."""
    above = figure.get_suptitle()
    figure.suptitle("; ".join(filter(None, [text, above])), fontsize=7.5, x=0.01, ha="left")


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write at the right of the axes what each line ends in, beside its end: ``(y, text, color)``, y in data.

    Labels keep the order of their lines and stand at least a line of text apart. Call when the limits are final.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    gap = 1.25 * 7 / 72 / (axes.get_position().height * figure.get_size_inches()[1])  # of the axes' height
    to_axes = axes.transData + axes.transAxes.inverted()
    wanted = sorted(((float(to_axes.transform((axes.get_xlim()[0], y))[1]), text, color) for y, text, color in ends))
    places = spread([min(1.0, max(0.0, y)) for y, _, _ in wanted], gap)
    for place, (_, text, color) in zip(places, wanted, strict=True):
        axes.text(1.01, place, text, transform=axes.transAxes, color=color, fontsize=7, va="center", ha="left")


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move ascending `places` until neighbors are `gap` apart; those that would touch are centered on their mean."""
    clusters: list[list[float]] = []  # of the places wanted; each stands around its mean
    for place in places:
        clusters.append([place])
        while len(clusters) > 1 and _start(clusters[-1], gap) < _start(clusters[-2], gap) + gap * len(clusters[-2]):
            last = clusters.pop()
            clusters[-1] += last
    return [_start(cluster, gap) + gap * index for cluster in clusters for index in range(len(cluster))]


def _start(cluster: Sequence[float], gap: float) -> float:
    return sum(cluster) / len(cluster) - gap * (len(cluster) - 1) / 2


def add_hover(axes: Axes, x: float, y: float, text: str) -> None:
    """Have the page show `text` where the pointer is over a point; other files do not have it, nor does any need it."""
    (point,) = axes.plot(
        [x], [y], marker="o", markersize=9, linestyle="none", color=INK, alpha=0.0, visible=False, zorder=10
    )
    point.set_gid(HOVER + text)


def label_axes(axes: Axes, x: str, y: str, *, everywhere: bool = False) -> None:
    """Name the axes; inside a grid of panels only the outer ones have a name at the left, or all `everywhere`."""
    axes.set_xlabel(x)
    place = axes.get_subplotspec()
    if everywhere or place is None or place.is_first_col():
        axes.set_ylabel(y)


def say_empty(axes: Axes) -> None:
    """Write into the axes that there is nothing to draw."""
    axes.text(0.5, 0.5, "nothing recorded", transform=axes.transAxes, ha="center", va="center")


def has_few_lines(shown: Sequence[Panel]) -> bool:
    """Return whether every panel has so few norms that thin lines and bands do not hide the means."""
    return all(len(panel.groups) <= MAX_CLEAR_LINES for panel in shown)


def interval_text(shown: Sequence[Panel], mark: str) -> str:
    """Return what a legend says of intervals that are drawn as `mark`, where there are any."""
    several = any(len(group.completed) > 1 for panel in shown for group in panel.groups)
    return f"{mark}: 95 % t interval over n seeds" if several else "one seed: no interval"


def _new_figure(shown: Sequence[Panel], share_y: bool, height: float = 3.3) -> tuple[Figure, list[Axes]]:
    """Return a figure with axes for each panel, at most `MAX_PANELS` of them."""
    from matplotlib.figure import Figure

    num_panels = min(len(shown), MAX_PANELS)
    num_entries = len({(group.norm, group.label) for panel in shown for group in panel.groups})
    if num_panels <= 1:
        figure = Figure(figsize=(WIDTH, height + 0.16 * ceil(num_entries / 4)))
        return figure, [figure.add_subplot()]
    num_columns = 2 if num_panels in (2, 4) else 3
    num_rows = ceil(num_panels / num_columns)
    legend_height = 0.5 + 0.16 * ceil(num_entries / 4)
    figure = Figure(figsize=(WIDTH, 2.0 * num_rows + legend_height))
    grid = figure.subplots(num_rows, num_columns, sharey=share_y, squeeze=False).flatten()
    for spare in grid[num_panels:]:
        spare.remove()
    for axes, panel in zip(grid, shown, strict=False):
        axes.set_title(panel.title)
    if len(shown) > MAX_PANELS:
        figure.suptitle(f"the first {MAX_PANELS} of {len(shown)} settings")
    return figure, list(grid[:num_panels])


def _add_legend(
    figure: Figure, shown: Sequence[Panel], chosen: Styles, explanation: Sequence[str], extra: Sequence[Line2D]
) -> None:
    """Put one legend below the axes: each norm with its n, and what the lines mean."""
    from matplotlib.lines import Line2D

    handles = []
    for (norm, label), style in chosen.items():
        groups = [group for panel in shown for group in panel.groups if (group.norm, group.label) == (norm, label)]
        handle = Line2D([], [], color=style.color, marker=style.marker, label=f"{label}, {count_text(groups)}")
        handle.set_linestyle(line_style(style))
        handles.append(handle)
    entries = [*handles, *extra]
    longest = max((len(str(entry.get_label())) for entry in entries), default=0)
    figure.legend(
        handles=entries,
        loc="outside lower center",
        ncols=4 if longest <= MAX_NARROW_LABEL else 3,
        title="; ".join(explanation).replace("\n", " "),
        title_fontsize=7,
        alignment="left",
    )


def fix_layout(figure: Figure) -> Figure:
    """Lay the figure out once and for all, so that its files agree and none lays it out again."""
    if engine := figure.get_layout_engine():
        engine.execute(figure)
    figure.set_layout_engine("none")
    return figure


def count_text(groups: Sequence[Group]) -> str:
    """Write how many completed runs stand behind a line, and how many diverged."""
    counts = sorted({len(group.completed) for group in groups})
    text = f"n={counts[0]}" if len(counts) == 1 else f"n={counts[0]}-{counts[-1]}"
    num_diverged = sum(group.states["diverged"] for group in groups)
    return f"{text}, {num_diverged} diverged" if num_diverged else text


def line_style(style: Style) -> Literal["-"] | tuple[float, tuple[float, ...]]:
    """Return the dash pattern as matplotlib takes it."""
    return (0, style.dash) if style.dash else "-"


def save_figure(figure: Figure, stem: Path, suffixes: Sequence[str] = FIGURE_SUFFIXES) -> list[Path]:
    """Write `figure` to files named `stem` plus each suffix; each appears whole or not at all."""
    paths = [stem.with_name(stem.name + suffix) for suffix in suffixes]
    for path in paths:
        write_bytes_atomically(path, figure_bytes(figure, path.suffix.removeprefix(".")))
    return paths


def figure_bytes(figure: Figure, kind: str, *, transparent: bool = False) -> bytes:
    """Return `figure` as a file of `kind` (png, pdf or svg), without dates or versions in it.

    The bytes are those of ``Figure.savefig``, which draws everything twice, once to lay it out; that is done here
    (`fix_layout`).
    """
    undated: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
        "svg": {"Date": None, "Creator": None},
    }
    buffer = io.BytesIO()
    for point in figure.findobj(lambda artist: (artist.get_gid() or "").startswith(HOVER)):
        point.set_visible(kind == "svg")
    with figure_style(), _as_saved(figure, transparent):
        getattr(_canvas(figure, kind), f"print_{kind}")(buffer, metadata=undated[kind])
    return buffer.getvalue()


def _canvas(figure: Figure, kind: str) -> Any:
    """Return what draws `figure` as `kind`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    return {"png": FigureCanvasAgg, "pdf": FigureCanvasPdf, "svg": FigureCanvasSVG}[kind](figure)


@contextmanager
def _as_saved(figure: Figure, transparent: bool) -> Iterator[None]:
    """Give `figure`, if `transparent`, no background; put it back at the end, and the resolution, which PDF changes."""
    patches = [figure.patch, *(axes.patch for axes in figure.axes)] if transparent else []
    before = [(patch.get_facecolor(), patch.get_edgecolor()) for patch in patches]
    for patch in patches:
        patch.set(facecolor="none", edgecolor="none")
    try:
        yield
    finally:
        figure.dpi = DPI
        for patch, (face, edge) in zip(patches, before, strict=True):
            patch.set(facecolor=face, edgecolor=edge)
