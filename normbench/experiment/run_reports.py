"""The pictures of single runs: drawn here as runs end, or, where they end fast, by processes that draw nothing else.

A picture takes this process a sixth of a second, in which no device that becomes free is given a run.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from normbench.errors import NormBenchError, first_line
from normbench.experiment import worker_process
from normbench.experiment.progress import note
from normbench.experiment.worker_process import Failed, Worker
from normbench.report import load_libraries

_MANY_RUNS, _FEW_SECONDS = 8, 4.0
"""Where so many runs end in that time, other processes draw from then on."""
_MAX_WAITING = 2
"""Runs that may wait for each of these processes before there is one more."""
_MAX_PROCESSES = max(1, min(8, (os.cpu_count() or 1) // 4))


class RunReports:
    """Calls `write` for run folders, whose runs have ended; leaving the block waits until all are written.

    What goes wrong with one is told, and nothing more: no picture is worth the runs that are still to come.
    """

    def __init__(self, write: Callable[[Path], object]) -> None:
        self._write = write
        self._ended_at: deque[float] = deque(maxlen=_MANY_RUNS)
        self._waiting: deque[Path] = deque()
        self._idle: list[Worker] = []
        self._drawing: dict[Any, tuple[Worker, Path]] = {}
        """By the connections of the processes."""

    def add(self, folder: Path) -> None:
        """Have a run's pictures drawn, now or soon."""
        self._ended_at.append(time.monotonic())
        is_fast = len(self._ended_at) == _MANY_RUNS and self._ended_at[-1] - self._ended_at[0] < _FEW_SECONDS
        if is_fast or self._idle or self._drawing:
            self._waiting.append(folder)
            self._hand_out(seconds=0.0)
            return
        try:
            self._write(folder)
        except Exception as error:
            _tell(folder, error)

    def _hand_out(self, seconds: float | None) -> None:
        for connection in wait(list(self._drawing), timeout=seconds) if self._drawing else ():
            worker, folder = self._drawing.pop(connection)
            if isinstance(message := worker.receive(), Failed):
                _tell(folder, message.error)
            worker.revive()
            self._idle.append(worker)
        num_processes = len(self._idle) + len(self._drawing)
        if len(self._waiting) > _MAX_WAITING * num_processes and num_processes < _MAX_PROCESSES:
            self._idle.append(worker_process.Worker(preload=load_libraries))
        while self._idle and self._waiting:
            worker, folder = self._idle.pop(), self._waiting.popleft()
            worker.submit(self._write, folder)
            self._drawing[worker.connection] = worker, folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Draw what waits, or leave it, where an exception ends the block, to the next call."""
        while kind is None and (self._drawing or self._waiting):
            self._hand_out(seconds=None)
        for worker in [*self._idle, *(worker for worker, _ in self._drawing.values())]:
            worker.close() if kind is None else worker.dismiss()
        self._idle.clear()
        self._drawing.clear()


def _tell(folder: Path, error: Exception) -> None:
    note(f"normbench: {folder}: the loss curve cannot be written: {reason(error)}")


def reason(error: Exception) -> str:
    """Return what an error says, in a line; with its kind, where it is no user's problem."""
    if isinstance(error, OSError):
        return error.strerror or first_line(error)
    return first_line(error) if isinstance(error, NormBenchError) else f"{type(error).__name__}: {first_line(error)}"
