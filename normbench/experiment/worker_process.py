"""Long-lived local processes, one a device, that run generator functions and stream back what they yield.

A function that raises, and a process that is killed, become messages: the parent goes on.
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, Self

from normbench.errors import NormBenchError

_STOP = "stop"
_JOIN_SECONDS = 5.0


@dataclass(frozen=True)
class Yielded:
    """The function yielded a value."""

    value: Any


@dataclass(frozen=True)
class Finished:
    """The function came to its end, or was stopped when asked to."""

    stopped: bool = False


@dataclass(frozen=True)
class Failed:
    """The function raised, or its process died."""

    kind: str
    """The exception's class name, or `WorkerDied`."""
    message: str
    exit_code: int
    """What the command line exits with if nothing can go on: that of a `NormBenchError`, else 1."""
    traceback: str | None = None
    """Of an unexpected exception."""


Message = Yielded | Finished | Failed


class Worker:
    """One process. `submit` starts a generator function there; `receive` returns its messages one by one.

    Args:
        environment: more environment variables for the process.
        preload: a module that it imports at once, before it is asked for anything.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, *, preload: str | None = None) -> None:
        self._environment = dict(environment or {})
        self._preload = preload
        self.connection: Connection
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._environment, self._preload), daemon=True)
        with _signals_blocked():
            self._process.start()
        theirs.close()

    def submit(self, target: str, *arguments: Any) -> None:
        """Start a generator function, named ``"package.module:function"`` so that only the process imports it."""
        with suppress(OSError):  # the process is gone: receive says so
            self.connection.send((target, arguments))

    def receive(self) -> Message:
        """Return the next message, waiting for it."""
        try:
            message: Message = self.connection.recv()
            return message
        except (EOFError, OSError):
            self._process.join(_JOIN_SECONDS)
            return Failed("WorkerDied", _how_it_died(self._process.exitcode), exit_code=1)

    def call(self, target: str, *arguments: Any) -> Any:
        """Run the function to its end and return the last value it yielded.

        Raises:
            WorkerError: it raised, or the process died.
        """
        self.submit(target, *arguments)
        return self.result()

    def result(self) -> Any:
        """Wait for the end of the function submitted last and return the last value it yielded.

        Raises:
            WorkerError: it raised, or the process died.
        """
        value = None
        while True:
            message = self.receive()
            if isinstance(message, Failed):
                raise WorkerError(message)
            if isinstance(message, Finished):
                return value
            value = message.value

    def stop(self) -> None:
        """Ask the running function to end at its next yield; it still sends `Finished`."""
        with suppress(OSError):
            self.connection.send(_STOP)

    def revive(self) -> None:
        """Start another process, with another `connection`, if this one has died."""
        if not self._process.is_alive():
            self.connection.close()
            self._start()

    def dismiss(self) -> None:
        """Let the process end on its own, which may take it a second; `close` then waits for it."""
        self.connection.close()

    def close(self) -> None:
        """End the process; a function that still runs is closed first, and given some seconds for it."""
        self.connection.close()
        self._process.join(_JOIN_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the process at once."""
        self.connection.close()
        self._process.kill()
        self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the process: in good order, or at once where an exception leaves the block."""
        self.kill() if kind else self.close()


class WorkerError(NormBenchError):
    """A function called in a worker failed."""

    def __init__(self, failure: Failed) -> None:
        self.failure = failure
        self.exit_code = failure.exit_code
        super().__init__(failure.message)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Start a process that Ctrl-C and SIGTERM do not reach: both go to the whole group, and the parent decides."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def failure_from(error: Exception) -> Failed:
    """Return how `error` is reported: a user's problem as its message, a bug with its traceback."""
    if isinstance(error, NormBenchError):
        return Failed(type(error).__name__, str(error), error.exit_code)
    message = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {message[0] if message else ''}"
    return Failed(type(error).__name__, text, exit_code=1, traceback=traceback.format_exc())


def _how_it_died(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"the training process was killed by {name}{hint}"
    return f"the training process ended unexpectedly with exit code {exit_code}"


def _serve(connection: Connection, environment: dict[str, str], preload: str | None) -> None:
    """Run in the process: take functions and stream their values until the parent goes away."""
    # Handlers that do nothing, because ignoring would be inherited by processes that torch starts.
    signal.signal(signal.SIGINT, _do_nothing)
    signal.signal(signal.SIGTERM, _do_nothing)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    wait_asleep()
    os.environ.update(environment)
    if preload is not None:
        with suppress(Exception):  # the function that needs the module will say what is wrong with it
            importlib.import_module(preload)
        gc.freeze()  # modules are never garbage, and looking through torch's for it takes a tenth of a second
    while True:
        try:
            request = connection.recv()
        except (EOFError, OSError):
            return
        if request == _STOP:
            continue  # asked to stop what has just ended
        target, arguments = request
        try:
            connection.send(_stream(connection, target, arguments))
        except (EOFError, OSError):
            return


def wait_asleep() -> None:
    """Let OpenMP's threads wait asleep, not spinning; call before torch is imported, which reads it.

    On a machine that others use too, spinning made a training step three times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _do_nothing(_signal: int, _frame: FrameType | None) -> None:
    pass


def _stream(connection: Connection, target: str, arguments: tuple[Any, ...]) -> Message:
    module, _, function = target.partition(":")
    try:
        generator: Generator[Any] = getattr(importlib.import_module(module), function)(*arguments)
        for value in generator:
            connection.send(Yielded(value))
            if connection.poll() and connection.recv() == _STOP:
                generator.close()
                return Finished(stopped=True)
    except (ConnectionError, EOFError):
        with suppress(Exception):
            generator.close()  # the parent is gone: what the generator saves on closing is still saved
        raise
    except Exception as error:
        return failure_from(error)
    return Finished()
