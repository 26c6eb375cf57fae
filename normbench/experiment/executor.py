"""Where runs are trained, as the runner sees it: a place that takes runs while it has room and sends their messages.

The processes of this machine are one such place. A place that is elsewhere, or that trains several runs in a process,
fills the same protocol; which process holds which run is known to the place alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from typing import Any, Protocol, TypeVar

from normbench.config.schema import BaseRunConfig
from normbench.errors import OutOfMemoryError
from normbench.experiment.plan import RunPlan
from normbench.experiment.worker_process import Failed, Finished, Message, Worker, Yielded
from normbench.runs.timing_file import timing_key
from normbench.runs.writer import own_code
from normbench.worker import targets
from normbench.worker.targets import RunRequest

T = TypeVar("T")


@dataclass(frozen=True)
class Postponed:
    """A run ended because of the others in its process; submitted again, it trains beside fewer."""

    failure: Failed
    runs_at_once: int
    """How many its process trains at once from now on; 1: that run alone."""


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

    def wait(self, seconds: float) -> Iterator[tuple[str, Message | Postponed]]:
        """Yield messages of running runs with their run ids; nothing if none comes within `seconds`.

        After `Finished`, `Failed` or `Postponed` a run is no longer held, and its room is free. What a run writes into
        its folder before a message is there when the message is yielded.
        """

    def stop(self, run_id: str) -> None:
        """Ask a run to end its step and save a checkpoint; its last message still comes, after others on the way."""

    def dismiss(self) -> None:
        """Let everything end on its own, which may take a second; runs save a checkpoint, and no message comes."""

    def kill(self, seconds: float) -> None:
        """End what still holds a run: give it `seconds` to save a checkpoint, all together, and then none."""


class LocalExecutor:
    """Trains runs in each of the `workers`, processes of this machine: `runs_at_once`, at most, in each of them.

    Runs of one norm go to one process where there are several, because they share their kernels. Where several run at
    once, those that take long go first, as far as that is known of their like, so that none is left over at the end.
    """

    def __init__(self, workers: Sequence[Worker], runs_at_once: int = 1) -> None:
        self.workers = tuple(workers)
        self._places = [_Place(worker, runs_at_once) for worker in workers]
        self._chosen = self._places[0]
        self._alone: set[str] = set()
        """Runs that were lost beside others: which of them was to blame is not known."""
        self._kinds: dict[str, str] = {}
        self._seconds: dict[str, float] = {}
        """What the last run of a kind took."""

    def choose(self, waiting: Sequence[RunPlan]) -> int | None:
        """Return the position of the next run for the process with the most room; None while none has room for any."""
        for place in sorted(self._places, key=lambda place: len(place.held)):
            if len(place.held) < place.room and (found := self._next_for(place, waiting)) is not None:
                self._chosen = place
                return found
        return None

    def submit(self, run_id: str, request: RunRequest) -> None:
        """Start a run in the process for which it was chosen."""
        place = self._chosen
        if not place.held:
            place.worker.revive()
        is_alone = run_id in self._alone or _company(request.config) is None
        request = replace(request, runs_at_once=1 if is_alone else place.room)
        place.held[run_id] = request
        place.begun[run_id] = time.monotonic()
        place.kinds.add(self._kind(run_id, request.config))
        place.worker.submit(targets.train_run, request, job=run_id)

    def wait(self, seconds: float) -> Iterator[tuple[str, Message | Postponed]]:
        """Yield a message of each process that has sent something; see `Executor.wait`."""
        busy = {place.worker.connection: place for place in self._places if place.held}
        for connection in wait(list(busy), timeout=seconds):
            place = busy[connection]  # type: ignore[index]
            run_id, message = place.worker.receive_of_any()
            if isinstance(message, Yielded):
                yield run_id, message
                continue
            is_lost = isinstance(message, Failed) and (message.is_lost or message.is_last)
            for ended in list(place.held) if is_lost else [run_id]:
                yield ended, self._ended(place, ended, message)

    def stop(self, run_id: str) -> None:
        """Ask a run to end its step and save a checkpoint."""
        self._place_of(run_id).worker.stop(run_id)

    def dismiss(self) -> None:
        """Let all processes end on their own."""
        for worker in self.workers:
            worker.dismiss()

    def kill(self, seconds: float) -> None:
        """End the processes that hold a run, within `seconds`."""
        deadline = time.monotonic() + seconds
        for place in self._places:
            if place.held:
                place.worker.close(max(0.0, deadline - time.monotonic()))
                place.held.clear()

    def _next_for(self, place: _Place, waiting: Sequence[RunPlan]) -> int | None:
        """Return the first run that `place` can train beside what it trains, those of others' kinds last."""
        others = [other.kinds - place.kinds for other in self._places if other is not place]
        in_order = len(self._places) == place.room == 1

        def rank(position: int) -> tuple[bool, float, int]:
            kind = self._kind(waiting[position].run_id, waiting[position].config)
            seconds = math.inf if in_order else self._seconds.get(kind, math.inf)
            return any(kind in kinds for kinds in others), -seconds, position

        return min(
            (position for position, plan in enumerate(waiting) if self._fits(place, plan)), key=rank, default=None
        )

    def _fits(self, place: _Place, plan: RunPlan) -> bool:
        """Return whether the process trains nothing, or only what the run can be trained beside."""
        wanted = _company(plan.config)
        if not place.held:
            return True
        if wanted is None or plan.run_id in self._alone or not self._alone.isdisjoint(place.held):
            return False
        return all(_company(request.config) == wanted for request in place.held.values())

    def _ended(self, place: _Place, run_id: str, message: Message) -> Message | Postponed:
        """Free the room of a run, and return what became of it: what it failed of beside others is not yet the end."""
        request, begun = place.held.pop(run_id), place.begun.pop(run_id)
        if isinstance(message, Finished):
            self._seconds[self._kind(run_id, request.config)] = time.monotonic() - begun
        if request.runs_at_once == 1 or not isinstance(message, Failed):
            return message
        if message.is_lost or message.is_last:
            self._alone.add(run_id)
            return Postponed(message, 1)
        if isinstance(message.error, OutOfMemoryError):
            place.room = max(1, min(place.room, len(place.held)))
            return Postponed(message, place.room)
        return message

    def _kind(self, run_id: str, config: BaseRunConfig) -> str:
        if run_id not in self._kinds:
            self._kinds[run_id] = timing_key(config)
        return self._kinds[run_id]

    def _place_of(self, run_id: str) -> _Place:
        return next(place for place in self._places if run_id in place.held)


@dataclass(eq=False)
class _Place:
    worker: Worker
    room: int
    held: dict[str, RunRequest] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)
    kinds: set[str] = field(default_factory=set)
    """What it has trained, by `timing_key`."""


def _company(config: BaseRunConfig) -> tuple[Any, ...] | None:
    """Return what runs must have in common that a process trains at once; None for a run that is trained alone.

    Torch keeps the arithmetic of a process, and so does it one source of random numbers, which code of a user's own may
    draw from. Compiled models are left alone because they were not tried together.
    """
    train = config.train
    if own_code(config) or train.engine == "compile":
        return None
    return config.task, config.device, train.precision, train.reproducible
