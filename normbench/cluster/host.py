"""A host: the actor that owns a training process on a node, one for each device, and streams what the process sends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normbench.cluster.node_files import Changes, Files, NodeFolder, with_paths
from normbench.data.locate import DATA_DIR_VARIABLE
from normbench.experiment.worker_process import Message, Yielded, start_worker
from normbench.worker import targets


@dataclass(frozen=True)
class Batch:
    """Messages that a training process sent, and the files that it wrote before them."""

    messages: list[Message]
    files: Files


@dataclass(frozen=True)
class Task:
    """A function for a training process, with the folders that it reads and writes."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    folders: Mapping[Path, Files]
    """Folders among the arguments, by their paths on the driver, with the files that they are to hold."""
    written: Path | None = None
    """The one of `folders` whose files travel back."""
    written_files: tuple[str, ...] = ()
    """The names of those that do."""
    seconds_between_files: float = 0.0


class Host:
    """Runs one task after the other in a training process of its own. Ray makes an actor of it.

    A fault of a device ends the process, and not the host: the driver is told, and the next task gets a new process.
    """

    def __init__(
        self, session: str, name: str, variables: Mapping[str, str], data_dir: str | None, data: Mapping[str, Any]
    ) -> None:
        import ray

        self._folder = NodeFolder(session, name)
        found = {DATA_DIR_VARIABLE: data_dir} if data_dir else {}
        for file_name, reference in data.items():
            found = {DATA_DIR_VARIABLE: str(self._folder.place_data(file_name, ray.get(reference)))}
        self._worker = start_worker({**variables, **found})
        self._sending = threading.Lock()
        self._stopped_task = -1

    def describe(self, device: str) -> dict[str, Any]:
        """Return what the training process computes on (`normbench.worker.targets.describe_device`)."""
        return self._worker.call(targets.describe_device, device)

    def run(self, number: int, task: Task) -> Iterator[Batch]:
        """Run a task and yield what it sends; the last batch ends with `Finished` or `Failed`.

        `number` is that of the task, by which `stop` knows it.
        """
        places = {path: self._folder.place(f"{index}-{path.name}", files)
                  for index, (path, files) in enumerate(task.folders.items())}  # fmt: skip
        changes = Changes(places[task.written], task.written_files) if task.written else None
        self._worker.revive()
        with self._sending:
            self._worker.submit(task.function, *with_paths(task.arguments, places))
            if self._stopped_task == number:  # asked before there was anything to stop
                self._worker.stop()
        sent_at, has_ended = time.monotonic(), False
        while not has_ended:
            messages = [self._worker.receive()]
            while isinstance(messages[-1], Yielded) and self._worker.connection.poll():
                messages.append(self._worker.receive())
            has_ended = not isinstance(messages[-1], Yielded)
            is_due = has_ended or time.monotonic() - sent_at >= task.seconds_between_files
            files = changes.read() if changes and is_due else {}
            if files:
                sent_at = time.monotonic()
            yield Batch(messages, files)

    def stop(self, number: int) -> None:
        """Ask a task to end at its next yield, also if it has not begun yet."""
        with self._sending:
            self._stopped_task = number
            self._worker.stop()

    def close(self) -> None:
        """End the training process and remove what was written on the node."""
        self._worker.kill()
        self._folder.remove()
