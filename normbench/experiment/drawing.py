"""Drawing beside the processes that train: figures of runs as they end, and those of the report all at once."""

from __future__ import annotations

import os
import pickle
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from normbench.errors import NormBenchError, first_line
from normbench.experiment.progress import note
from normbench.experiment.worker_process import Failed, Finished, Worker
from normbench.report import load_libraries, write_run_report
from normbench.report.drawing import Drawn, draw_figure
from normbench.report.task_report import PageFigure

_MIN_CORES = 4
"""With fewer, a process that draws would take from those that train what it gives."""
_PROCESSES = 3


def usual_count() -> int:
    """Return how many processes may draw on this machine."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _PROCESSES if count >= _MIN_CORES else 0


class Drawers:
    """Processes that draw, `count` of them; where there are none, or one is lost, this process draws itself.

    What cannot be drawn of a run is told in a line: nothing in a picture is worth the runs that are still to come.
    """

    def __init__(self, count: int) -> None:
        self._places = [_Place(Worker(preload=load_libraries)) for _ in range(count)]
        self._drawn: dict[bytes, Drawn] = {}
        """Figures by all that they are drawn from."""

    def draw_run(self, folder: Path) -> None:
        """Draw the figures of a run's folder, beside this process where there is another."""
        self._collect()
        if not self._places:
            _draw_run(folder)
            return
        place = min(self._places, key=lambda place: len(place.tasks))
        place.tasks.append(folder)
        place.worker.submit(write_run_report, folder)

    def foresee(self, figures: Callable[[], Sequence[PageFigure]]) -> None:
        """Begin to draw figures that are likely to be asked for, as many as there are processes."""
        if self._places:
            with suppress(Exception):  # it will be said when they are asked for
                self._begin(figures())

    def draw_figures(self, figures: Sequence[PageFigure]) -> list[Drawn]:
        """Draw the figures of a page, in their order, those that are drawn already excepted.

        Raises:
            Exception: what drawing one of them raises.
        """
        left = list(figures)
        while self._places and (left := self._begin(left)):
            self._receive_any()
        self.wait()
        found = [self._drawn.get(_content(entry) or b"") for entry in figures]
        return [drawn or draw_figure(entry) for drawn, entry in zip(found, figures, strict=True)]

    def wait(self) -> None:
        """Wait until all is drawn that was begun."""
        while any(place.tasks for place in self._places):
            self._receive_any()

    def _begin(self, figures: Sequence[PageFigure]) -> list[PageFigure]:
        """Begin to draw figures that can be sent; return those for which no process is free.

        A process has one figure at a time: while it sends one, it reads nothing, and this process would wait for it.
        """
        left = []
        for entry in figures:
            content = _content(entry)
            if content is None or content in self._drawn or any(content in place.tasks for place in self._places):
                continue
            free = [place for place in self._places if not any(isinstance(task, bytes) for task in place.tasks)]
            if not free:
                left.append(entry)
                continue
            place = min(free, key=lambda place: len(place.tasks))
            place.tasks.append(content)
            place.worker.submit(draw_figure, entry)
        return left

    def _collect(self) -> None:
        """Take what has come, without waiting."""
        for place in list(self._places):
            while place.tasks and place.worker.connection.poll():
                self._receive(place)

    def _receive_any(self) -> None:
        """Wait for a message of a process, and take it."""
        busy = {place.worker.connection: place for place in self._places if place.tasks}
        for connection in wait(list(busy)):
            self._receive(busy[connection])  # type: ignore[index]

    def _receive(self, place: _Place) -> None:
        """Take a process's next message; draw what a process leaves that was lost."""
        message = place.worker.receive()
        if isinstance(message, Failed) and message.is_lost:
            self._places.remove(place)
            for folder in (task for task in place.tasks if isinstance(task, Path)):
                _draw_run(folder)
            place.tasks.clear()
            return
        task = place.tasks.popleft()
        if isinstance(task, bytes):
            if isinstance(message, Finished):
                self._drawn[task] = message.value
        elif isinstance(message, Failed):
            _tell(task, message.error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """End the processes; at once where an exception leaves the block."""
        for place in self._places:
            place.worker.kill() if kind else place.worker.dismiss()
        for place in self._places:
            place.worker.close()


@dataclass(eq=False)
class _Place:
    worker: Worker
    tasks: deque[Path | bytes] = field(default_factory=deque)
    """What it was asked to draw, in order: runs by their folders, figures by their contents."""


def _content(figure: PageFigure) -> bytes | None:
    """Return all that a figure is drawn from; None where it cannot be sent: a function within a function, say."""
    with suppress(Exception):
        return pickle.dumps(figure)
    return None


def _draw_run(folder: Path) -> None:
    try:
        write_run_report(folder)
    except Exception as error:
        _tell(folder, error)


def _tell(folder: Path, error: Any) -> None:
    note(f"normbench: {folder}: the loss curve cannot be written: {reason(error)}")


def reason(error: Exception) -> str:
    """Return what an error says, in a line; with its kind, where it is no user's problem."""
    if isinstance(error, OSError):
        return error.strerror or first_line(error)
    return first_line(error) if isinstance(error, NormBenchError) else f"{type(error).__name__}: {first_line(error)}"
