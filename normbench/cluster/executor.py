"""Trains runs on the hosts of a cluster: places them, brings back their messages, and goes on without lost nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from typing import Any

from normbench.cluster.host import Task
from normbench.cluster.node_files import Files, read_files
from normbench.cluster.options import ClusterOptions
from normbench.cluster.process import HostProcess, close_all
from normbench.errors import EnvironmentProblem
from normbench.experiment.plan import RunPlan
from normbench.experiment.worker_process import Message, Yielded
from normbench.runs.events import Started
from normbench.runs.records import CHECKPOINT_FILE
from normbench.tasks import TASKS
from normbench.worker import targets
from normbench.worker.targets import RunRequest

_SECONDS_BETWEEN_LOOKS = 2.0
_SECONDS_WITHOUT_HOSTS = 60.0
"""How long runs wait for a node when there is none left."""
_SECONDS_TO_STOP = 30.0
"""What a run is given to end its step, to save and to send its checkpoint when it is asked to."""


@dataclass
class Slot:
    """A host, and what it does."""

    process: HostProcess
    facts: Any
    """What it computes on, or a reference to that while it starts."""
    device_name: str | None = None
    """None while it starts."""
    run_id: str | None = None
    stop_by: float | None = None
    """When a run that was asked to stop must have done so, on the monotonic clock."""


@dataclass
class ClusterExecutor:
    """Trains a run at a time on each host; see `normbench.experiment.executor.Executor`.

    All runs of a seed go to devices of one name, so that what is compared was computed alike; where none of that name
    is left, they go anywhere.
    """

    ray: Any
    options: ClusterOptions
    slots: list[Slot]
    new_slots: Callable[[], list[Slot]]
    """Starts hosts on nodes that have joined."""
    device_of_seed: dict[int, str] = field(default_factory=dict)
    """The device that a seed's runs were trained on, by its name."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What every run's environment says of the cluster."""
    _chosen: Slot | None = None
    _seed_of: dict[str, int] = field(default_factory=dict)
    _prerequisites: dict[Any, Files] = field(default_factory=dict)
    _looked_at: float = 0.0
    _last_host_at: float = field(default_factory=time.monotonic)

    def choose(self, waiting: Sequence[RunPlan]) -> int | None:
        """Return the first run that an idle host may train."""
        if not waiting:
            return None
        self._look()
        idle = [slot for slot in self.slots if slot.device_name is not None and slot.run_id is None]
        if not idle:
            return None
        left = {slot.device_name for slot in self.slots}  # with None while some start, whose names are not known yet
        for position, plan in enumerate(waiting):
            name = self.device_of_seed.get(plan.config.seed)
            is_free = name is None or not left & {name, None}
            fitting = [slot for slot in idle if is_free or slot.device_name == name]
            if fitting:
                self._chosen = fitting[0]
                self._seed_of[plan.run_id] = plan.config.seed
                return position
        return None

    def submit(self, run_id: str, request: RunRequest) -> None:
        """Start the run that was chosen, with what its folder and the run that it needs hold."""
        slot = self._chosen
        assert slot is not None
        assert slot.device_name is not None
        self.device_of_seed[self._seed_of.pop(run_id)] = slot.device_name
        folders: dict[Any, Files] = {request.folder: read_files(request.folder) if request.resume else {}}
        if request.prerequisite is not None:
            if request.prerequisite not in self._prerequisites:
                self._prerequisites[request.prerequisite] = read_files(request.prerequisite)
            folders[request.prerequisite] = self._prerequisites[request.prerequisite]
        task = Task(
            targets.train_run,
            (request,),
            folders,
            request.folder,
            (CHECKPOINT_FILE, *TASKS[request.config.task].files),
            self.options.seconds_between_checkpoints,
        )
        slot.run_id, slot.stop_by, self._chosen = run_id, None, None
        slot.process.submit_task(task)

    def wait(self, seconds: float) -> Iterator[tuple[str, Message]]:
        """Yield the messages of the hosts that have sent some; see `Executor.wait`."""
        running = {slot.process.stream: slot for slot in self.slots if slot.run_id is not None}
        starting = [slot.facts for slot in self.slots if slot.device_name is None]
        waited = [*running, *starting]
        if not waited:
            time.sleep(seconds)
            return
        if self.ray.wait(waited, num_returns=1, timeout=seconds)[0] and running:
            for stream in self.ray.wait(list(running), num_returns=len(running), timeout=0)[0]:
                yield from self._receive(running[stream])
        for slot in running.values():
            if slot.run_id is not None and slot.stop_by is not None and time.monotonic() > slot.stop_by:
                message = slot.process.lost(f"it did not stop within {_SECONDS_TO_STOP:.0f} s")
                yield self._release(slot), message

    def _receive(self, slot: Slot) -> Iterator[tuple[str, Message]]:
        for message in slot.process.received():
            if isinstance(message, Yielded):
                assert slot.run_id is not None
                yield slot.run_id, self._with_facts(message, slot)
            else:
                yield self._release(slot), message

    def _release(self, slot: Slot) -> str:
        run_id, slot.run_id = slot.run_id, None
        assert run_id is not None
        if slot.process.is_lost:
            self.slots.remove(slot)
        return run_id

    def _with_facts(self, message: Yielded, slot: Slot) -> Yielded:
        if not isinstance(message.value, Started):
            return message
        facts = {**message.value.facts, **self.facts, "node": slot.process.node.short_id}
        return Yielded(replaced(message.value, facts=facts))

    def _look(self) -> None:
        """Take in hosts that have started, and from time to time nodes that have joined."""
        starting = {slot.facts: slot for slot in self.slots if slot.device_name is None}
        for ready in self.ray.wait(list(starting), num_returns=len(starting), timeout=0)[0] if starting else ():
            slot = starting[ready]
            try:
                slot.facts = self.ray.get(ready)
                slot.device_name = str(slot.facts["device_name"])
            except self.ray.exceptions.RayError as error:
                slot.process.lost(str(error))
                self.slots.remove(slot)
        now = time.monotonic()
        if now - self._looked_at >= _SECONDS_BETWEEN_LOOKS:
            self._looked_at = now
            self.slots += self.new_slots()
        if self.slots:
            self._last_host_at = now
        elif now - self._last_host_at > _SECONDS_WITHOUT_HOSTS:
            raise EnvironmentProblem(
                f"--cluster {self.options.address}: no node is left that a run fits on; run the command again to go on"
            )

    def stop(self, run_id: str) -> None:
        """Ask a run to end its step and save a checkpoint; after half a minute its host counts as lost."""
        for slot in self.slots:
            if slot.run_id == run_id:
                slot.stop_by = time.monotonic() + _SECONDS_TO_STOP
                slot.process.stop()

    def dismiss(self) -> None:
        """Ask all runs to save a checkpoint."""
        for slot in self.slots:
            if slot.run_id is not None:
                slot.process.stop()

    def kill(self, seconds: float) -> None:
        """End the hosts that hold a run; checkpoints that come within `seconds` are kept."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and any(slot.run_id for slot in self.slots):
            for _ in self.wait(left):
                pass
        self.end([slot for slot in self.slots if slot.run_id is not None], seconds)

    def end(self, slots: Sequence[Slot], seconds: float) -> None:
        """End hosts, and forget them."""
        close_all(self.ray, [slot.process for slot in slots], seconds)
        self.slots[:] = [slot for slot in self.slots if slot not in slots]
