"""Drawing beside the processes that train: pictures of runs as they end, and those of the report all at once.

A picture takes this process a sixth of a second or more, in which no device that becomes free is given a run.
"""

from __future__ import annotations

import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from normbench.errors import NormBenchError, first_line
from normbench.experiment import worker_process
from normbench.experiment.progress import note
from normbench.experiment.worker_process import Failed, Finished, Worker
from normbench.report import load_libraries
from normbench.report.drawing import Drawn, draw_figure
from normbench.report.task_report import PageFigure

_NUM_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_MIN_CORES = 4
"""With fewer, a process that draws takes from those that train what it gives."""
_FIRST_PROCESSES = 3
"""As many as the figures of most reports."""
_MAX_PROCESSES = max(1, min(8, _NUM_CORES // 4))
_MANY_RUNS, _FEW_SECONDS = 8, 4.0
"""Where so many runs end in that time, there is another process from then on while there are fewer than that."""
_MAX_WAITING = 2
"""Runs that may wait for each process before there is one more."""


def usual_count() -> int:
    """Return how many processes draw from the start on this machine."""
    return _FIRST_PROCESSES if _NUM_CORES >= _MIN_CORES else 0


class Drawers:
    """Processes that draw, `count` from the start and more where runs end fast; without any, this process draws itself.

    What goes wrong with a run's pictures is told in a line, and nothing more: no picture is worth the runs that are
    still to come.

    Args:
        write: draws the pictures of a run into its folder.
        count: how many processes there are from the start.
    """

    def __init__(self, write: Callable[[Path], object], count: int = 0) -> None:
        self._write = write
        self._places = [_Place() for _ in range(count if _can_be_sent(write) else 0)]
        self._ended_at: deque[float] = deque(maxlen=_MANY_RUNS)
        self._drawn: dict[bytes, Drawn] = {}
        """Figures by all that they are drawn from."""

    def draw_run(self, folder: Path) -> None:
        """Draw the pictures of a run whose folder this is: here, or soon elsewhere."""
        self._ended_at.append(time.monotonic())
        self._collect()
        if (len(self._places) < _MAX_PROCESSES and self._is_one_missing()) and _can_be_sent(self._write):
            self._places.append(_Place())
        if not self._places:
            try:
                self._write(folder)
            except Exception as error:
                _tell(folder, error)
            return
        min(self._places, key=lambda place: len(place.tasks)).begin(folder, self._write, folder)

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

    def _is_one_missing(self) -> bool:
        """Return whether runs end faster than they are drawn."""
        is_fast = len(self._ended_at) == _MANY_RUNS and self._ended_at[-1] - self._ended_at[0] < _FEW_SECONDS
        return is_fast and all(len(place.tasks) > _MAX_WAITING for place in self._places)

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
            if free:
                min(free, key=lambda place: len(place.tasks)).begin(content, draw_figure, entry)
            else:
                left.append(entry)
        return left

    def _collect(self) -> None:
        """Take what has come, without waiting."""
        for place in self._places:
            while place.tasks and place.worker.connection.poll():
                self._receive(place)

    def _receive_any(self) -> None:
        """Wait for a message of a process, and take it."""
        busy = {place.worker.connection: place for place in self._places if place.tasks}
        for connection in wait(list(busy)):
            self._receive(busy[connection])  # type: ignore[index]

    def _receive(self, place: _Place) -> None:
        """Take a process's next message; one that was lost is replaced, and goes on with what it had not begun."""
        message, task = place.worker.receive(), place.tasks.popleft()
        if isinstance(task, bytes):
            if isinstance(message, Finished):
                self._drawn[task] = message.value
        elif isinstance(message, Failed):
            _tell(task, message.error)
        if isinstance(message, Failed) and message.is_lost:
            left, place.tasks = place.tasks, deque()
            for folder in (task for task in left if isinstance(task, Path)):
                place.begin(folder, self._write, folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """End the processes, when all is drawn; or at once, where an exception ends the block."""
        if kind is None:
            self.wait()
        for place in self._places:
            place.worker.kill() if kind else place.worker.dismiss()
        for place in self._places:
            place.worker.close()


@dataclass(eq=False)
class _Place:
    worker: Worker = field(default_factory=lambda: worker_process.Worker(preload=load_libraries))
    tasks: deque[Path | bytes] = field(default_factory=deque)
    """What it was asked to draw, in order: runs by their folders, figures by their contents."""

    def begin(self, task: Path | bytes, function: Callable[..., object], argument: object) -> None:
        """Have something drawn, by another process if this one was lost."""
        if not self.tasks:
            self.worker.revive()
        self.tasks.append(task)
        self.worker.submit(function, argument)


def _content(figure: PageFigure) -> bytes | None:
    """Return all that a figure is drawn from; None where it cannot be sent: a function within a function, say."""
    with suppress(Exception):
        return pickle.dumps(figure)
    return None


def _can_be_sent(function: Callable[..., object]) -> bool:
    with suppress(Exception):
        return bool(pickle.dumps(function))
    return False


def _tell(folder: Path, error: Any) -> None:
    note(f"normbench: {folder}: the loss curve cannot be written: {reason(error)}")


def reason(error: Exception) -> str:
    """Return what an error says, in a line; with its kind, where it is no user's problem."""
    if isinstance(error, OSError):
        return error.strerror or first_line(error)
    return first_line(error) if isinstance(error, NormBenchError) else f"{type(error).__name__}: {first_line(error)}"
