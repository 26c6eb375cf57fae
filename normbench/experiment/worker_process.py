"""Long-lived local processes, one per device, that run functions for the parent and stream back what they yield.

A process can run several generator functions at once, each with a turn up to its next value or pause.

A function that raises, and a process that is killed, become messages: the parent goes on.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from types import FrameType, ModuleType
from typing import Any, Self, TypeVar

from normbench.errors import CUDA_OUT_OF_MEMORY, DeviceError, NormBenchError, WorkerError
from normbench.experiment.interrupts import SIGNALS
from normbench.runs.events import Pause
from normbench.worker.libraries import import_libraries

T = TypeVar("T")

_STOP = "stop"
_JOIN_SECONDS = 5.0
_SECONDS_BETWEEN_TURNS = 0.0005
"""How long a process sleeps in which all functions wait for the device."""


@dataclass(frozen=True)
class Yielded:
    """A generator function yielded a value."""

    value: Any


@dataclass(frozen=True)
class Finished:
    """The function came to its end, or was stopped when asked to."""

    value: Any = None
    """What a function that is no generator returned."""
    stopped: bool = False


@dataclass(frozen=True)
class Failed:
    """The function raised, or its process died."""

    error: NormBenchError
    """A user's problem as it was raised; a `WorkerError` for a bug, or for a process that died."""
    traceback: str | None = None
    """The traceback of a bug."""
    is_lost: bool = False
    """Whether the process died."""
    is_host_lost: bool = False
    """Whether the machine that the process ran on was lost, so that the run may go on elsewhere."""
    is_last: bool = False
    """Whether the process ends now, because its device is of no more use to it."""


Message = Yielded | Finished | Failed


class Worker:
    """One process. `submit` starts a function there; `receive` returns its messages one by one.

    Functions are sent by name, so they stand at the top of a module; one that needs torch imports it when it is called
    (`normbench.worker.targets`), because this process does without.

    Args:
        environment: more environment variables for the process.
        preload: a function that it calls at once, before it is asked for anything, to import what takes long.
    """

    def __init__(
        self, environment: Mapping[str, str] | None = None, *, preload: Callable[[], object] | None = None
    ) -> None:
        self._environment = dict(environment or {})
        self._preload = preload
        self.connection: Connection
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._environment, self._preload), daemon=True)
        with _signals_blocked(), _without_main_module():
            self._process.start()
        theirs.close()

    def submit(self, function: Callable[..., Any], *arguments: Any, job: str = "") -> None:
        """Start a function, or a generator function, whose values come one by one.

        Several that run at once are told apart by the name of the `job`.
        """
        with suppress(OSError):  # the process is gone: receive says so
            self.connection.send((job, function, arguments))

    def receive(self) -> Message:
        """Return the next message, waiting for it."""
        return self.receive_of_any()[1]

    def receive_of_any(self) -> tuple[str, Message]:
        """Return the next message and the job that it is of, waiting for it; a lost process is the end of all jobs."""
        try:
            job, message = self.connection.recv()
            if isinstance(message, Failed) and message.is_last:
                self._process.kill()  # it is ending, and might take its time
                self._process.join()
            return job, message
        except (EOFError, OSError):
            self._process.join(_JOIN_SECONDS)
            return "", Failed(WorkerError(_how_it_died(self._process.exitcode)), is_lost=True)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function that is no generator and return what it returns.

        Raises:
            NormBenchError: the function raised it.
            WorkerError: the function raised something else, or the process died.
        """
        self.submit(function, *arguments)
        result: T = self.result()
        return result

    def result(self) -> Any:
        """Wait for the end of the function submitted last and return what it returned.

        Raises:
            NormBenchError: the function raised it.
            WorkerError: the function raised something else, or the process died.
        """
        while not isinstance(message := self.receive(), Finished):
            if isinstance(message, Failed):
                raise message.error
        return message.value

    def stop(self, job: str = "") -> None:
        """Ask a running function to end at its next yield; it still sends `Finished`."""
        with suppress(OSError):
            self.connection.send((job, _STOP, ()))
            if hasattr(signal, "SIGCONT") and self._process.pid is not None:
                os.kill(self._process.pid, signal.SIGCONT)  # a process that was suspended could not end

    def revive(self) -> None:
        """Start another process, with another `connection`, if this one has died."""
        if not self._process.is_alive():
            self.connection.close()
            self._start()

    def dismiss(self) -> None:
        """Let the process end on its own, which may take it a second; `close` then waits for it."""
        self.connection.close()

    def close(self, seconds: float = _JOIN_SECONDS) -> None:
        """End the process; a function that still runs is closed at its next yield, within `seconds`."""
        self.connection.close()
        self._process.join(seconds)
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


def start_worker(environment: Mapping[str, str] | None = None) -> Worker:
    """Start a training process, with more environment variables; it imports torch while this process goes on."""
    return Worker(environment, preload=import_libraries)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Start a process that signals do not reach: they go to the whole group, and the parent decides."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    resource_tracker.ensure_running()  # a process of its own, and starting it lets Ctrl-C and SIGTERM through again
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Start a process that does not import the caller's script again: none of what it runs stands there.

    So a script needs no ``if __name__ == "__main__"`` around a comparison.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def failure_from(error: Exception) -> Failed:
    """Return how `error` crosses the processes: a user's problem as it is, a bug as its first line and traceback."""
    if isinstance(error, NormBenchError):
        return Failed(error)
    if CUDA_OUT_OF_MEMORY in str(error):  # a run's own is told as such (`OutOfMemoryError`)
        problem = "the GPU has no memory left for a run; `nvidia-smi` shows which programs hold it"
        return Failed(DeviceError(f"{problem}. --device cpu trains without it"))
    from normbench.own_code import describe, place_of  # imported where it is needed, for a fast start

    place = place_of(error)  # in code of a user's own, where it passed through some
    text = f"{place}: {describe(error)}" if place else describe(error)
    return Failed(WorkerError(text), traceback.format_exc())


def _how_it_died(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"the training process was killed by {name}{hint}"
    return f"the training process ended unexpectedly with exit code {exit_code}"


def _serve(connection: Connection, environment: dict[str, str], preload: Callable[[], object] | None) -> None:
    """Run in the process: take functions and stream their values until the parent goes away."""
    # Handlers that do nothing, because ignoring would be inherited by processes that torch starts.
    for number in SIGNALS:
        signal.signal(number, _do_nothing)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    set_library_defaults()
    os.environ.update(environment)
    sys.stdout = sys.stderr  # stdout is for results, whatever code of a user's own prints
    if preload is not None:
        gc.disable()  # modules are never garbage, and looking through torch's for it takes a seventh of their import
        with suppress(Exception):  # the function that needs what is missing will say so
            preload()
        gc.freeze()
        gc.enable()
    _Jobs(connection).serve()


class _Jobs:
    """The functions that a process runs for its parent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._running: dict[str, Generator[Any, None, None]] = {}
        self._pauses: dict[str, Pause] = {}
        self._is_device_usable = True

    def serve(self) -> None:
        """Run what the parent asks for until it goes away, or until the device is of no more use."""
        try:
            while self._is_device_usable:
                while not self._running or self._connection.poll():
                    self._take(*self._connection.recv())
                    if not self._is_device_usable:
                        return
                have_gone_on = [self._take_turn(job) for job in list(self._running)]
                if not any(have_gone_on):
                    self._connection.poll(_SECONDS_BETWEEN_TURNS)
        except (EOFError, OSError):  # the parent is gone: what generators save on closing is still saved
            for generator in self._running.values():
                with suppress(Exception):
                    generator.close()

    def _take(self, job: str, function: Callable[..., Any] | str, arguments: tuple[Any, ...]) -> None:
        """Do what the parent asks for: start a function, or stop one that may have ended by itself."""
        if isinstance(function, str):
            if job in self._running:
                self._stop(job)
            return
        try:
            result = function(*arguments)
        except Exception as error:
            self._send_end(job, failure_from(error))
            return
        if isinstance(result, Generator):
            self._running[job] = result
        else:
            self._send_end(job, Finished(result))

    def _take_turn(self, job: str) -> bool:
        """Let a function go on to its next value or pause; return False where its pause is not over."""
        generator = self._running.get(job)
        if generator is None or not self._is_device_usable:
            return False
        try:
            if job in self._pauses and not self._pauses[job].is_over():
                return False
            self._pauses.pop(job, None)
            value = next(generator)
        except StopIteration:
            self._send_end(job, Finished())
        except Exception as error:
            self._send_end(job, failure_from(error))
        else:
            if isinstance(value, Pause):
                self._pauses[job] = value
            else:
                self._send(job, Yielded(value))
        return True

    def _stop(self, job: str) -> None:
        try:
            self._running[job].close()
        except Exception as error:
            self._send_end(job, failure_from(error))
        else:
            self._send_end(job, Finished(stopped=True))

    def _send_end(self, job: str, message: Message) -> None:
        """Send how a function ended; after a failure look whether the device can still be used."""
        from normbench.worker import targets  # in the training process, where a fast start is not waited for

        self._running.pop(job, None)
        self._pauses.pop(job, None)
        if isinstance(message, Failed):
            self._is_device_usable = targets.is_device_usable()
            message = replace(message, is_last=not self._is_device_usable)
        self._send(job, message)

    def _send(self, job: str, message: Message) -> None:
        """Send a message; one that cannot be pickled is a bug of the function, of which the parent is told.

        Nothing is sent of a message before all of it is pickled.
        """
        try:
            self._connection.send((job, message))
        except OSError:
            raise
        except Exception as error:
            self._running.pop(job, None)
            self._connection.send((job, failure_from(error)))


def set_library_defaults() -> None:
    """Set what OpenMP and cuBLAS read from the environment, unless it is set; call before torch is imported.

    OpenMP's threads wait asleep, not spinning: on a machine that others use too, spinning made a training step three
    times as long. cuBLAS gets the work space with which torch takes its products for deterministic. And as many streams
    as a process may train runs on have a hardware queue each: by default eight have.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")


def _do_nothing(_signal: int, _frame: FrameType | None) -> None:
    pass
