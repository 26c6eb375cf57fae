"""Where runs are trained, as the runner sees it: a place that takes runs while it has room and sends their messages.

The processes of this machine are one such place. A place that is elsewhere, or that trains several runs in a process,
fills the same protocol; which process holds which run is known to the place alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any, Protocol, TypeVar

from normbench.experiment.plan import RunPlan
from normbench.experiment.worker_process import Message, Worker, Yielded
from normbench.worker import targets
from normbench.worker.targets import RunRequest

T = TypeVar("T")


class TrainingProcess(Protocol):
    """A process that runs one function at a time, by its name; `normbench.experiment.worker_process.Worker` is one."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Start a function, or a generator function, whose values come one by one."""

    def receive(self) -> Message:
        """Return the next message, waiting for it."""

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function that is no generator and return what it returns, or raise what it raised."""

    def result(self) -> Any:
        """Wait for the end of the function submitted last and return what it returned, or raise what it raised."""

    def stop(self) -> None:
        """Ask the running function to end at its next yield; it still sends `Finished`."""

    def revive(self) -> None:
        """Start another process in place of one that has died."""


class Executor(Protocol):
    """Trains runs, as many at once as it has room for, each known by its run id."""

    def choose(self, waiting: Sequence[RunPlan]) -> int | None:
        """Return the position in `waiting` of the run to start next; None if there is none, or no room for it now."""

    def submit(self, run_id: str, request: RunRequest) -> None:
        """Start a run that `choose` chose, in a new process if the one that it goes to has died."""

    def wait(self, seconds: float) -> Iterator[tuple[str, Message]]:
        """Yield messages of running runs with their run ids; nothing if none comes within `seconds`.

        After `Finished` or `Failed` a run is no longer held, and its room is free. What a run writes into its folder
        before a message is there when the message is yielded.
        """

    def stop(self, run_id: str) -> None:
        """Ask a run to end its step and save a checkpoint; its last message still comes, after others on the way."""

    def dismiss(self) -> None:
        """Let everything end on its own, which may take a second; runs save a checkpoint, and no message comes."""

    def kill(self, seconds: float) -> None:
        """End what still holds a run: give it `seconds` to save a checkpoint, all together, and then none."""


class LocalExecutor:
    """Trains a run at a time in each of the `workers`, processes of this machine."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.workers = tuple(workers)
        self._held: dict[str, Worker] = {}

    def choose(self, waiting: Sequence[RunPlan]) -> int | None:
        """Return the first run's position while a process is idle."""
        return 0 if waiting and self._idle() else None

    def submit(self, run_id: str, request: RunRequest) -> None:
        """Start a run in the first process that is idle."""
        worker = self._idle()[0]
        worker.revive()
        self._held[run_id] = worker
        worker.submit(targets.train_run, request)

    def wait(self, seconds: float) -> Iterator[tuple[str, Message]]:
        """Yield a message of each process that has sent something; see `Executor.wait`."""
        held = {worker.connection: (run_id, worker) for run_id, worker in self._held.items()}
        for connection in wait(list(held), timeout=seconds):
            run_id, worker = held[connection]  # type: ignore[index]
            message = worker.receive()
            if not isinstance(message, Yielded):
                del self._held[run_id]
            yield run_id, message

    def stop(self, run_id: str) -> None:
        """Ask a run to end its step and save a checkpoint."""
        self._held[run_id].stop()

    def dismiss(self) -> None:
        """Let all processes end on their own."""
        for worker in self.workers:
            worker.dismiss()

    def kill(self, seconds: float) -> None:
        """End the processes that hold a run, within `seconds`."""
        deadline = time.monotonic() + seconds
        for worker in self._held.values():
            worker.close(max(0.0, deadline - time.monotonic()))
        self._held.clear()

    def _idle(self) -> list[Worker]:
        held = set(map(id, self._held.values()))
        return [worker for worker in self.workers if id(worker) not in held]
