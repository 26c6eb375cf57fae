"""Figures of a page as the contents of their files: what one process can draw for another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from normbench.report.figure_style import FIGURE_SUFFIXES, figure_bytes
from normbench.report.html import inline_svg
from normbench.report.task_report import PageFigure


@dataclass(frozen=True)
class Drawn:
    """A figure in all its forms."""

    svg: str
    """The element that stands in the page."""
    files: Mapping[str, bytes]
    """Contents by suffix: ``.png``, ``.pdf``."""


Draw = Callable[[Sequence[PageFigure]], Sequence[Drawn]]
"""Draws figures, in their order."""


def draw_figure(entry: PageFigure) -> Drawn:
    """Draw one figure in all its forms."""
    svg = inline_svg(entry.figure, entry.name, entry.title)
    return Drawn(svg, {suffix: figure_bytes(entry.figure, suffix.removeprefix(".")) for suffix in FIGURE_SUFFIXES})


def draw_figures(figures: Sequence[PageFigure]) -> list[Drawn]:
    """Draw figures one after the other."""
    return [draw_figure(entry) for entry in figures]


def draw_for_page(figures: Sequence[PageFigure]) -> list[Drawn]:
    """Draw figures as the page has them, without files of their own."""
    return [Drawn(inline_svg(entry.figure, entry.name, entry.title), {}) for entry in figures]
