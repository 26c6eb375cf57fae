"""A worker without a process: the same messages from the same generator functions."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import Pipe
from typing import Any

from normbench.experiment.worker_process import Failed, Finished, Message, Worker, WorkerError, Yielded, failure_from

DIED = Failed("WorkerDied", "the training process was killed by SIGKILL (out of memory?)", exit_code=1)


class Killed(Exception):
    """Raised by a script in place of what a killed process does."""


class LocalWorker:
    """Runs what is submitted, or `script` in its place, one value a message."""

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        *,
        preload: str | None = None,
        script: Callable[..., Iterator[Any]] | None = None,
    ) -> None:
        self.environment = environment or {}
        self.connection, self._bell = Pipe()
        self._script = script
        self.submitted: list[tuple[Any, ...]] = []
        self.num_revived = 0
        self.was_killed = False

    def submit(self, target: str, *arguments: Any) -> None:
        module, _, function = target.partition(":")
        run = self._script or getattr(importlib.import_module(module), function)
        self.submitted.append(arguments)
        self._generator = run(*arguments)
        self._stop = False
        self._bell.send(None)  # there is something to receive from now on

    def receive(self) -> Message:
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

    def call(self, target: str, *arguments: Any) -> Any:
        module, _, function = target.partition(":")
        try:
            values = list(getattr(importlib.import_module(module), function)(*arguments))
        except Exception as error:
            raise WorkerError(failure_from(error)) from error
        return values[-1] if values else None

    result = Worker.result

    def __enter__(self) -> LocalWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stop(self) -> None:
        self._stop = True

    def revive(self) -> None:
        self.num_revived += 1

    def kill(self) -> None:
        self.was_killed = True

    def dismiss(self) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()
        self._bell.close()
