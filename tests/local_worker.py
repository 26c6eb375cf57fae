"""A worker without a process: the same messages from the same functions."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from multiprocessing import Pipe
from typing import Any

from normbench.errors import WorkerError
from normbench.experiment.worker_process import Failed, Finished, Message, Worker, Yielded, failure_from

DIED = Failed(WorkerError("the training process was killed by SIGKILL (out of memory?)"), is_lost=True)


class Killed(Exception):
    """Raised by a script in place of what a killed process does."""


class LocalWorker:
    """Runs what is submitted, or `script` in its place, one value a message."""

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        *,
        preload: Callable[[], object] | None = None,
        script: Callable[..., Iterator[Any]] | None = None,
    ) -> None:
        self.environment = environment or {}
        self.connection, self._bell = Pipe()
        self._script = script
        self.submitted: list[tuple[Any, ...]] = []
        self.num_revived = 0
        self.was_closed = False
        self._generator: Generator[Any, None, None] | None = None

    def submit(self, function: Callable[..., Any], *arguments: Any, job: str = "") -> None:
        self._job = job
        self.submitted.append(arguments)
        self._stop = False
        self._message: Message | None = None
        try:
            result = (self._script or function)(*arguments)
            if isinstance(result, Generator):
                self._generator = result
            else:
                self._message = Finished(result)
        except Exception as error:
            self._message = failure_from(error)
        self._bell.send(None)  # there is something to receive from now on

    def receive_of_any(self) -> tuple[str, Message]:
        return self._job, self.receive()

    def receive(self) -> Message:
        if self._message is not None:
            return self._end(self._message)
        try:
            if self._stop:
                self._generator.close()
                return self._end(Finished(stopped=True))
            return Yielded(next(self._generator))
        except StopIteration:
            return self._end(Finished())
        except Killed:
            return self._end(DIED)
        except Exception as error:
            return self._end(failure_from(error))

    def _end(self, message: Message) -> Message:
        self.connection.recv()
        return message

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            raise failure_from(error).error from error

    result = Worker.result

    def __enter__(self) -> LocalWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stop(self, job: str = "") -> None:
        self._stop = True

    def revive(self) -> None:
        self.num_revived += 1

    def dismiss(self) -> None:
        if self._generator is not None:
            with suppress(Exception):  # as in a process, whose parent would not hear of it
                self._generator.close()
        self.connection.close()
        self._bell.close()

    def close(self, seconds: float = 0.0) -> None:
        self.dismiss()
        self.was_closed = True
