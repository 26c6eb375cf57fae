"""The driver's end of a host: a process of another machine, with the same protocol as one of this machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from normbench.cluster.host import Batch, Host, Task
from normbench.cluster.node_files import Files, paths_in, read_files
from normbench.cluster.nodes import Node
from normbench.errors import WorkerError, first_line
from normbench.experiment.worker_process import Failed, Finished, Message
from normbench.runs.atomic import write_atomically
from normbench.runs.records import is_run

T = TypeVar("T")

_SECONDS_TO_CLOSE = 5.0


class HostProcess:
    """A training process on a node, reached through its host.

    Args:
        ray: the module, connected.
        node: where it is to run.
        num_cpus: what the host reserves there.
        num_gpus: GPUs that it reserves, and that its process sees.
        arguments: what `host.Host` is made with.
    """

    def __init__(self, ray: Any, node: Node, num_cpus: int, num_gpus: int, arguments: Sequence[Any]) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.node = node
        self._ray = ray
        methods = {"max_restarts": 0, "max_task_retries": 0, "concurrency_groups": {"control": 1}}
        actor = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, **methods)(Host)
        place = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        self._actor = actor.options(scheduling_strategy=place).remote(*arguments)
        self._stream: Any = None
        self._messages: deque[Message] = deque()
        self._written: Path | None = None
        self._written_files: tuple[str, ...] = ()
        self._number = 0
        self.is_lost = False

    def describe(self, device: str) -> Any:
        """Ask what the process computes on; return a reference, which is there once the host runs."""
        return self._actor.describe.remote(device)

    @property
    def stream(self) -> Any:
        """What `ray.wait` waits for."""
        return self._stream

    def submit(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Start a function; runs among its arguments travel with it, as does what they need."""
        folders = {path: read_files(path) for path in paths_in(arguments) if is_run(path)}
        self.submit_task(Task(function, arguments, folders))

    def submit_task(self, task: Task) -> None:
        """Start a task whose folders are known."""
        self._number += 1
        self._messages.clear()
        self._written, self._written_files = task.written, task.written_files
        run = self._actor.run.options(num_returns="streaming")
        self._stream = run.remote(self._number, task)

    def receive(self) -> Message:
        """Return the next message, waiting for it; files that were written before it are in their folder then."""
        while not self._messages:
            self._messages.extend(self._next().messages)
        return self._messages.popleft()

    def received(self) -> list[Message]:
        """Return the messages of the batch that has come, which `ray.wait` has seen."""
        return self._next().messages

    def _next(self) -> Batch:
        try:
            batch: Batch = self._ray.get(next(self._stream))
        except self._ray.exceptions.RayTaskError as error:  # a bug in the host, which still runs
            return Batch([Failed(WorkerError(first_line(error.cause or error)), str(error))], {})
        except (self._ray.exceptions.RayError, StopIteration) as error:
            return Batch([self.lost(first_line(error))], {})
        self._write(batch.files)
        return batch

    def lost(self, reason: str) -> Failed:
        """Count the host as lost and return what its run is told."""
        self.is_lost = True
        self.kill()
        where = f"node {self.node.short_id} ({self.node.address})"
        return Failed(WorkerError(f"{where} was lost: {reason}"), is_lost=True, is_host_lost=True)

    def _write(self, files: Files) -> None:
        for name, content in files.items():
            if self._written is not None and name in self._written_files:  # nothing else, whatever a node sends
                write_atomically(self._written / name, partial(_write_content, content))

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function that is no generator and return what it returns, or raise what it raised."""
        self.submit(function, *arguments)
        result: T = self.result()
        return result

    def result(self) -> Any:
        """Wait for the end of the function submitted last and return what it returned, or raise what it raised."""
        while not isinstance(message := self.receive(), Finished):
            if isinstance(message, Failed):
                raise message.error
        return message.value

    def stop(self) -> None:
        """Ask the running function to end at its next yield; it still sends `Finished`."""
        with suppress(self._ray.exceptions.RayError):
            self._actor.stop.options(concurrency_group="control").remote(self._number)

    def revive(self) -> None:
        """Do nothing: a host gives each task a process that lives."""

    def close(self) -> Any:
        """Ask the host to end its process and to remove its files; return a reference to wait for."""
        return self._actor.close.options(concurrency_group="control").remote()

    def kill(self) -> None:
        """End the host at once, and with it its process."""
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actor, no_restart=True)


class _Placeholder:
    """Has resources of a node, and does nothing with them."""

    def is_there(self) -> bool:
        return True


class Reservation:
    """Keeps others off a part of a node; `made` is a reference that is there once it does."""

    def __init__(self, ray: Any, node: Node, num_cpus: int, num_gpus: int) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray = ray
        place = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        actor = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=0)(_Placeholder)
        self._actor = actor.options(scheduling_strategy=place).remote()
        self.made = self._actor.is_there.remote()

    def end(self) -> None:
        """Give the part back."""
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actor, no_restart=True)


def _write_content(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def close_all(ray: Any, processes: Sequence[HostProcess], seconds: float = _SECONDS_TO_CLOSE) -> None:
    """End hosts: in order, as far as they do so within `seconds` all together, and then at once."""
    closing = [process.close() for process in processes if not process.is_lost]
    if closing:
        with suppress(ray.exceptions.RayError):
            ray.wait(closing, num_returns=len(closing), timeout=seconds)
    for process in processes:
        process.kill()
