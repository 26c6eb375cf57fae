"""The program in a process that was forked from this one, which has imported all that it needs.

Importing torch takes seconds, during which nothing is written. A forked program has its own session, training process,
locks, pipes and files, and is killed where it works a hundred times as often in the same time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from command import environment
from typer.testing import CliRunner

from normbench import __main__
from normbench.cli import app
from normbench.experiment import worker_process
from normbench.experiment.timing_pass import MIN_ROUNDS
from normbench.report import load_libraries
from normbench.report.drawing import Drawn
from normbench.worker import train_run
from normbench.worker.libraries import import_libraries


@pytest.fixture
def quick_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs forked from now on time norms by single steps, and write reports without figures, which take seconds."""
    monkeypatch.setattr("normbench.experiment.timing_pass._BLOCK_SECONDS", 0.0)
    monkeypatch.setattr("normbench.experiment.timing_pass.MAX_ROUNDS", MIN_ROUNDS)
    monkeypatch.setattr("normbench.report.drawing.draw_figure", lambda _: Drawn("", {}))


def import_all() -> None:
    """Import what a program and its training process would."""
    load_libraries()
    import_libraries()
    CliRunner().invoke(app, ["--help"])
    with torch.device("meta"):
        torch.empty(1).normal_()  # imports torch's compiler


class ForkedProgram:
    """Looks like `subprocess.Popen`, as far as the tests look."""

    saves_always = False
    """Whether a checkpoint is saved whenever steps are told, so that it is killed while it saves."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.returncode: int | None = None
        now = time.monotonic_ns()
        self._out, self._err = folder / f"stdout-{now}", folder / f"stderr-{now}"
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                code = self._run(folder, arguments)
            finally:
                os._exit(code)

    def poll(self) -> int | None:
        return self._wait(os.WNOHANG)

    def wait(self) -> int | None:
        return self._wait(0)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def told(self) -> str:
        """Return what it has written to stderr until now."""
        return self._err.read_text() if self._err.exists() else ""

    def communicate(self, timeout: float) -> tuple[str, str]:
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                os.killpg(self.pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired("forked program", timeout)
            time.sleep(0.01)
        return self._out.read_text(), self._err.read_text()

    def _run(self, folder: Path, arguments: tuple[str, ...]) -> int:
        """Be the program; return its exit code."""
        os.setsid()
        for descriptor, path in ((0, os.devnull), (1, self._out), (2, self._err)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), descriptor)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        os.chdir(folder)
        variables = environment()
        os.environ.clear()
        os.environ.update(variables)
        sys.argv = ["normbench", *arguments]
        worker_process.Worker._start = start_forked  # type: ignore[method-assign]
        if self.saves_always:
            train_run.MIN_SECONDS_BETWEEN_CHECKPOINTS, train_run.MAX_CHECKPOINT_SHARE = 0.0, 1e9
        try:
            __main__.main()
        except SystemExit as error:
            return error.code if isinstance(error.code, int) else 0
        except BaseException:
            traceback.print_exc()
        return 1

    def __enter__(self) -> ForkedProgram:
        return self

    def __exit__(self, problem: object, *_: object) -> None:
        if problem is not None and self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()


class SavingProgram(ForkedProgram):
    """A forked program with as many checkpoints as there can be."""

    saves_always = True


def start_forked(self: Any) -> None:
    """Stand in for `Worker._start`, which lets a new process import everything."""
    context = get_context("fork")
    self.connection, theirs = context.Pipe()
    arguments = (self.connection, theirs, self._environment, self._preload)
    self._process = context.Process(target=_serve_forked, args=arguments, daemon=True)
    with worker_process._signals_blocked():
        self._process.start()
    theirs.close()


def _serve_forked(mine: Any, theirs: Any, variables: Mapping[str, str], preload: Callable[[], object] | None) -> None:
    mine.close()  # else this process would never see that its parent is gone
    worker_process._serve(theirs, dict(variables), preload)
