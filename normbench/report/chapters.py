"""Chapters of the report: each a topic that only some experiments measure, with its figures and tables.

A chapter is made by a function of the recorded experiment and its sections, which returns None where nothing of it was
measured. `CHAPTERS` lists the functions in the order of the page; page, contents, Markdown and figure files follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from normbench.registry import load
from normbench.report.grouping import Section
from normbench.report.task_report import PageFigure
from normbench.runs.records import ExperimentRecord


@dataclass(frozen=True)
class Grid:
    """A plain table on the page; the first column is text, the others are numbers."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Chapter:
    """One topic on the page: sentences, then figures, then tables."""

    anchor: str
    """Where the contents lead: lower-case letters and hyphens, unique on the page."""
    title: str
    text: tuple[str, ...] = ()
    """Plain sentences, a paragraph each."""
    figures: tuple[PageFigure, ...] = ()
    """Also written as PNG and PDF, by their names."""
    grids: tuple[Grid, ...] = ()
    is_cost: bool = False
    """Whether it stands behind the cost of training, and not behind the curves."""


ChapterMaker = Callable[[ExperimentRecord, Sequence[Section]], Chapter | None]

CHAPTERS: tuple[str, ...] = (
    "normbench.report.tuning:tuning_chapter",
    "normbench.report.variance:variance_chapter",
    "normbench.report.why:why",
    "normbench.report.evaluations:evaluation",
    "normbench.report.robustness:robustness",
)
"""The functions that make chapters, as ``module:function`` of type `ChapterMaker`, in the order of the page."""


def make_chapters(experiment: ExperimentRecord, sections: Sequence[Section]) -> tuple[Chapter, ...]:
    """Return the chapters of which something was measured."""
    found = []
    for name in CHAPTERS:
        make: ChapterMaker = load(name)
        chapter = make(experiment, sections)
        if chapter is not None:
            found.append(chapter)
    return tuple(found)
