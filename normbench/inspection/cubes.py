"""The picture of what each norm averages over: a cube of N samples, C channels and H, W positions.

The picture is known from Wu & He 2018 (arXiv 1803.08494, figure 2); this is a drawing of our own. The colored cells are
one set of values that share their statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from normbench.report.palette import BLUE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Extent = Literal["one", "part", "all"]
Point = tuple[float, float]

CELLS = (4, 6, 5)  # drawn along N, C and H, W
PART = (2, 3, 1)  # how many of them make a chunk of samples, a group of channels
COS30, SIN30 = 3**0.5 / 2, 0.5
CUBE_WIDTH, CUBE_HEIGHT = (CELLS[0] + CELLS[1]) * COS30, CELLS[2] + (CELLS[0] + CELLS[1]) * SIN30
PANEL_WIDTH, PANEL_HEIGHT = CUBE_WIDTH + 4.2, CUBE_HEIGHT + 4.6
CUBES_A_ROW = 6
INCHES_PER_CELL = 0.125
EMPTY = {"top": "#FFFFFF", "left": "#F7F7F7", "right": "#EFEFEF"}
FULL_LIGHTNESS = {"top": 0.40, "left": 0.0, "right": 0.16}  # share of white mixed into the color
EDGE, FULL_EDGE, INK, FAINT = "#9A9A9A", "#D8EAF5", "#222222", "#555555"


@dataclass(frozen=True)
class Extents:
    """The reach of one set of values that share their statistics along N, along C and along H, W."""

    samples: Extent
    channels: Extent
    positions: Extent

    def contains(self, cell: tuple[int, int, int]) -> bool:
        """Whether the set that holds the cube's front corner holds this cell too."""
        for index, extent, all_of_it, part in zip(
            cell, (self.samples, self.channels, self.positions), CELLS, PART, strict=True
        ):
            if index >= {"one": 1, "part": part, "all": all_of_it}[extent]:
                return False
        return True


@dataclass(frozen=True)
class CubePanel:
    """One norm: its name, what the line below says, and the sets it averages over, one cube each."""

    title: str
    caption: str
    sets: tuple[Extents, ...]

    @property
    def num_cubes(self) -> int:
        """The number of its cubes; a norm without statistics takes one, with nothing colored."""
        return max(1, len(self.sets))


def draw_cubes(panels: Sequence[CubePanel]) -> Figure:
    """Return the figure with all `panels`, in reading order."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure

    rows = _rows(panels)
    num_columns = max(sum(panel.num_cubes for panel in row) for row in rows)
    width, height = num_columns * PANEL_WIDTH, len(rows) * PANEL_HEIGHT
    figure = Figure(figsize=(width * INCHES_PER_CELL, height * INCHES_PER_CELL))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.axis("off")
    faces: list[tuple[tuple[Point, ...], str, str]] = []
    for row_number, row in enumerate(rows):
        left, base = 0.0, height - (row_number + 1) * PANEL_HEIGHT
        for panel in row:
            middle = left + panel.num_cubes * PANEL_WIDTH / 2
            axes.text(
                middle,
                base + CUBE_HEIGHT + 3.3,
                panel.title,
                ha="center",
                va="center",
                color=INK,
                weight="bold",
                size=8.5,
            )
            axes.text(middle, base + CUBE_HEIGHT + 1.95, panel.caption, ha="center", va="center", color=FAINT, size=7)
            for position in range(panel.num_cubes):
                corner = (left + 2.6 + CELLS[0] * COS30, base + 0.9)
                faces += _faces(corner, panel.sets[position] if panel.sets else None)
                for (x, y), text in _edge_labels(corner, plus=position > 0):
                    axes.text(x, y, text, ha="center", va="center", color=FAINT, size=11 if text == "+" else 6)
                left += PANEL_WIDTH
    outlines, fills, edges = zip(*sorted(faces, key=lambda face: face[2] != EDGE), strict=True)
    axes.add_collection(PolyCollection(outlines, facecolors=fills, edgecolors=edges, linewidths=0.5))
    return figure


def _rows(panels: Sequence[CubePanel]) -> list[list[CubePanel]]:
    """Break the panels into rows of at most `CUBES_A_ROW` cubes."""
    rows: list[list[CubePanel]] = [[]]
    for panel in panels:
        if rows[-1] and sum(other.num_cubes for other in rows[-1]) + panel.num_cubes > CUBES_A_ROW:
            rows.append([])
        rows[-1].append(panel)
    return rows


def _faces(corner: Point, extents: Extents | None) -> Iterator[tuple[tuple[Point, ...], str, str]]:
    """Yield the outline, color and edge color of every visible cell face; `corner` is the cube's lowest point."""

    def at(sample: float, channel: float, position: float) -> Point:
        """Return an isometric point: C to the upper right, N to the upper left, positions from the top down."""
        return (
            corner[0] + (channel - sample) * COS30,
            corner[1] + (channel + sample) * SIN30 + CELLS[2] - position,
        )

    def colors(face: Literal["top", "left", "right"], cell: tuple[int, int, int]) -> tuple[str, str]:
        if extents is None or not extents.contains(cell):
            return EMPTY[face], EDGE
        return _lighten(BLUE, FULL_LIGHTNESS[face]), FULL_EDGE

    for n in range(CELLS[0]):
        for c in range(CELLS[1]):
            yield (at(n, c, 0), at(n, c + 1, 0), at(n + 1, c + 1, 0), at(n + 1, c, 0)), *colors("top", (n, c, 0))
        for p in range(CELLS[2]):
            yield (at(n, 0, p), at(n + 1, 0, p), at(n + 1, 0, p + 1), at(n, 0, p + 1)), *colors("left", (n, 0, p))
    for c in range(CELLS[1]):
        for p in range(CELLS[2]):
            yield (at(0, c, p), at(0, c + 1, p), at(0, c + 1, p + 1), at(0, c, p + 1)), *colors("right", (0, c, p))


def _edge_labels(corner: Point, *, plus: bool) -> Iterator[tuple[Point, str]]:
    """Yield where the names of the cube's edges stand; with `plus`, a plus sign in place of the name at the left."""
    num_samples, num_channels, num_positions = CELLS
    yield (corner[0] - num_samples / 2 * COS30 - 0.55, corner[1] + num_samples / 2 * SIN30 - 0.65), "N"
    yield (corner[0] + num_channels / 2 * COS30 + 0.55, corner[1] + num_channels / 2 * SIN30 - 0.65), "C"
    yield (
        (corner[0] - num_samples * COS30 - 1.15, corner[1] + num_samples * SIN30 + num_positions / 2),
        "+" if plus else "H, W",
    )


def _lighten(color: str, share: float) -> str:
    """Return `color` (#RRGGBB) with `share` of white mixed in."""
    channels = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(value + (255 - value) * share):02X}" for value in channels)
