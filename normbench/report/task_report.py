"""A task's part in a report: what its images are called, what its numbers are, and which figures show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from normbench.registry import load
from normbench.report.comparison_table import Table
from normbench.report.grouping import Section
from normbench.runs.records import RunRecord
from normbench.tasks import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class PageFigure:
    """A figure with what is said about it; `name` is its file's stem."""

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure]
    is_sweep: bool = False
    """Whether it sums up a sweep and so stands before the tables."""

    @cached_property
    def figure(self) -> Figure:
        """The figure, drawn when it is first asked for."""
        return self.draw()


@dataclass(frozen=True)
class TaskReport:
    """Everything in a report that depends on the task."""

    time: str
    """The time of an epoch, or of a whole run where the task has no epochs, as a header: ``time per epoch``."""
    images_field: str
    """The config field that names the images, by dotted path."""
    data: Callable[[Section], str]
    """Takes a section and returns what prose calls its images: ``CIFAR-10``."""
    results: Callable[[Section], str]
    """Takes a section and returns the sentences of a table's caption that say what its measures are."""
    figures: Callable[[Sequence[Section], Sequence[Table]], list[PageFigure]]
    """Takes all sections of the task, with their tables, and returns the figures of the page."""
    run_figures: Callable[[RunRecord], Mapping[str, Figure]]
    """Takes one run and returns the figures that its own folder holds, by the stem of their file."""


def task_report(task: Task) -> TaskReport:
    """Return the task's part in a report."""
    found = load(task.report)
    assert isinstance(found, TaskReport)
    return found


def describe_images(name: str) -> str:
    """Return how prose calls a data set; synthetic images never pass for photographs."""
    return {"cifar10": "CIFAR-10", "synthetic": "synthetic images, not CIFAR-10,"}.get(name, name)
