"""A Ray cluster as the place where an experiment is carried out."""

from __future__ import annotations

import itertools
import json
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from normbench.cluster.connection import connected
from normbench.cluster.executor import ClusterExecutor, Slot
from normbench.cluster.nodes import Node, check_software, misfits, read_nodes
from normbench.cluster.options import ClusterOptions
from normbench.cluster.process import HostProcess, Reservation, close_all
from normbench.config.load import LoadedConfig
from normbench.data.formats import read_arrays, write_npz
from normbench.data.locate import find_cifar
from normbench.data.official import CIFAR10, CIFAR100
from normbench.errors import ConfigError, DataError, DeviceError, EnvironmentProblem, RunError
from normbench.experiment.executor import TrainingProcess
from normbench.experiment.plan import RunPlan
from normbench.experiment.progress import note
from normbench.runs.records import read_run

_MAX_STARTS = 4
"""Hosts that one experiment may start for each run that fits on a node: where they keep ending, no more are."""
_SECONDS_BEFORE_A_WORD = 10.0
_SECONDS_TO_BE_ALONE = 60.0
"""How long a timing pass waits for a node that others compute on."""


@contextmanager
def cluster_site(options: ClusterOptions, loaded: LoadedConfig) -> Iterator[ClusterSite]:
    """Connect to the cluster, check its nodes, and start a host to plan on; all hosts end with the block.

    Raises:
        ConfigError: the address is written wrongly.
        DeviceError: the experiment is to run on GPUs and the cluster has none.
        EnvironmentProblem: no cluster answers, no run fits on it, or its nodes have different software.
    """
    with connected(options) as ray:
        site = ClusterSite(ray, options, loaded)
        try:
            yield site
        finally:
            close_all(ray, [slot.process for slot in site.slots])


@dataclass
class ClusterSite:
    """The hosts of a session, from its planning to its timing pass; see `normbench.experiment.site.Site`."""

    ray: Any
    options: ClusterOptions
    loaded: LoadedConfig
    slots: list[Slot] = field(default_factory=list)
    _session: str = field(default_factory=lambda: secrets.token_hex(6))
    _num_started: Counter[str] = field(default_factory=Counter)
    """Hosts by their nodes, since the last timing pass."""
    _names: Iterator[int] = field(default_factory=itertools.count)
    _data: dict[str, Any] = field(default_factory=dict)
    """References to the files of data sets that nodes lack, by their names."""

    def __post_init__(self) -> None:
        text = json.dumps(self.loaded.experiment.model_dump(mode="json"))
        names = [official.key for official in (CIFAR10, CIFAR100) if f'"{official.key}"' in text]
        self._data_sets = names or ([CIFAR10.key] if self.loaded.experiment.task == "style_transfer" else [])
        nodes = read_nodes(self.ray, (), self._data_sets, self._data_folder())
        device = self.loaded.experiment.device
        self.on_gpus = device == "cuda" or (device == "auto" and any(node.num_gpus for node in nodes))
        if device == "cuda" and not any(node.num_gpus for node in nodes):
            raise DeviceError(f"--cluster {self.options.address}: device cuda, and no node has a GPU")
        self.nodes = [node for node in nodes if node.num_runs(self.options, on_gpus=self.on_gpus)]
        if not self.nodes:
            wanted = f"{self.options.cpus_per_run} CPUs" + (" and a GPU" if self.on_gpus else "")
            raise EnvironmentProblem(f"--cluster {self.options.address}: no node has {wanted}, which a run takes")
        check_software(self.nodes, self.options)
        self._known = {node.node_id for node in nodes}
        self._begin()

    @property
    def max_host_losses(self) -> int:
        """How often a run goes on elsewhere."""
        return self.options.node_failures

    @property
    def process(self) -> TrainingProcess:
        """The first host's process."""
        if not self.slots:
            self._begin()
        return self.slots[0].process

    @contextmanager
    def again(self) -> Iterator[ClusterSite]:
        """Yield this site: hosts outlive an experiment."""
        yield self

    def data_dir(self, _named: Path | None) -> None:
        """Return None: each node has been told where its data is."""

    def placement(self, num_due: int) -> list[dict[str, Any]]:
        """Return, for each node, how many runs it trains at once, and its share of `num_due` runs of equal length."""
        rooms = [node.num_runs(self.options, on_gpus=self.on_gpus) for node in self.nodes]
        bounds = [num_due * sum(rooms[:index]) // sum(rooms) for index in range(len(rooms) + 1)]
        return [
            {"node": node.short_id, "address": node.address, "devices": node.device_name, "runs_at_once": room,
             "runs": bounds[index + 1] - bounds[index]}
            for index, (node, room) in enumerate(zip(self.nodes, rooms, strict=True))
        ]  # fmt: skip

    @contextmanager
    def executor(
        self, due: Sequence[RunPlan], plans: Sequence[RunPlan], folder: Path, runs_at_once: int | None
    ) -> Iterator[ClusterExecutor]:
        """Start a host for each device, no more than there are runs to train.

        Raises:
            ConfigError: several runs at once are asked of a device.
        """
        if runs_at_once not in (None, 1):
            raise ConfigError("--cluster trains one run at a time on each device, so --runs-at-once can only be 1")
        self.slots += self._new_slots(len(due))
        executor = ClusterExecutor(
            self.ray,
            self.options,
            self.slots,
            lambda: self._new_slots(len(due)),
            devices_of_seeds(plans, folder),
            {"executor": f"ray {self.ray.__version__}"},
        )
        yield executor

    def timing_processes(self) -> Iterator[TrainingProcess]:
        """End all hosts but one for each kind of device, and yield each of these while it has its node for itself."""
        kept: dict[str | None, Slot] = {}
        nodes: dict[str | None, Node] = {}
        for slot in self.slots:
            if slot.device_name is not None and slot.device_name not in nodes:
                if slot.process.node not in nodes.values():
                    kept[slot.device_name] = slot
                nodes[slot.device_name] = slot.process.node
        alive = self._alive()
        for node in self.nodes:  # nothing may have been left to train there
            if node.kind and node.node_id in alive:
                nodes.setdefault(node.kind, node)
        self._end([slot for slot in self.slots if slot not in kept.values()])
        for name, node in nodes.items():
            if name not in kept:
                self._end([slot for slot in self.slots if slot.process.node == node])
                self.slots.append(self._start(node))
            slot = kept.get(name, self.slots[-1])
            with self._alone(slot) as is_alone:
                if is_alone:
                    yield slot.process
                else:
                    where = f"node {node.short_id} ({node.address})"
                    note(f"normbench: no norm is timed on {name}: others compute on {where}")
            self._end([slot])
        self._num_started.clear()

    @contextmanager
    def _alone(self, slot: Slot) -> Iterator[bool]:
        """Reserve what a host's node has beside it; yield whether that was there within a minute, and the host, too."""
        node = slot.process.node
        num_cpus = node.num_cpus - self.options.cpus_per_run
        num_gpus = node.num_gpus - 1 if self.on_gpus else 0
        rest = Reservation(self.ray, node, num_cpus, num_gpus) if num_cpus or num_gpus else None
        waited = [*([rest.made] if rest else []), *([slot.facts] if slot.device_name is None else [])]
        try:
            ready = self.ray.wait(waited, num_returns=len(waited), timeout=_SECONDS_TO_BE_ALONE)[0] if waited else []
            yield len(ready) == len(waited)
        finally:
            if rest:
                rest.end()

    def _end(self, slots: Sequence[Slot]) -> None:
        close_all(self.ray, [slot.process for slot in slots])
        self.slots[:] = [slot for slot in self.slots if slot not in slots]

    def _alive(self) -> set[str]:
        return {node["NodeID"] for node in self.ray.nodes() if node["Alive"]}

    def _begin(self) -> None:
        """Start the first host; say so where it has to wait for others' work."""
        alive = self._alive()
        node = next((node for node in self.nodes if node.node_id in alive), None)
        if node is None:
            raise EnvironmentProblem(f"--cluster {self.options.address}: no node is left")
        free = self.ray.available_resources()
        self.slots.append(self._start(node))
        is_full = free.get("CPU", 0) < self.options.cpus_per_run or (self.on_gpus and free.get("GPU", 0) < 1)
        if is_full and not self.ray.wait([self.slots[0].facts], timeout=_SECONDS_BEFORE_A_WORD)[0]:
            note(f"normbench: --cluster {self.options.address}: all devices are taken; waiting for one")

    def _new_slots(self, max_hosts: int) -> list[Slot]:
        """Start the hosts that are not there yet, on nodes that were known and that have joined.

        Of each kind of device no more than there are runs: all of them might have to be trained on one kind.
        """
        alive = self._alive()
        if alive - self._known:
            self._take_in(read_nodes(self.ray, self._known, self._data_sets, self._data_folder()))
        slots = list(self.slots)
        for node in self.nodes:
            room = node.num_runs(self.options, on_gpus=self.on_gpus)
            while (
                node.node_id in alive
                and sum(slot.process.node == node for slot in slots) < room
                and sum(slot.process.node.kind == node.kind for slot in slots) < max_hosts
                and self._num_started[node.node_id] < _MAX_STARTS * room
            ):
                slots.append(self._start(node))
        return slots[len(self.slots) :]

    def _take_in(self, joined: Sequence[Node]) -> None:
        """Add nodes that have joined, if runs fit on them and they compute with the same software."""
        self._known |= {node.node_id for node in joined}
        fitting = [node for node in joined if node.num_runs(self.options, on_gpus=self.on_gpus)]
        differing = misfits([self.nodes[0], *fitting], ship_code=self.options.ship_code)
        for node in fitting:
            if node.node_id in differing:
                note(f"normbench: node {node.address} is left out: it has another {', '.join(differing[node.node_id])}")
            else:
                self.nodes.append(node)

    def _start(self, node: Node) -> Slot:
        self._num_started[node.node_id] += 1
        threads = str(self.options.cpus_per_run)
        variables = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        if not self.on_gpus:
            variables["CUDA_VISIBLE_DEVICES"] = ""
        data_dir = node.facts.get("data_dir")
        data = {} if data_dir or not self._data_sets else self._shipped()
        arguments = (self._session, str(next(self._names)), variables, data_dir, data)
        process = HostProcess(self.ray, node, self.options.cpus_per_run, int(self.on_gpus), arguments)
        return Slot(process, process.describe("cuda" if self.on_gpus else "cpu"))

    def _data_folder(self) -> str | None:
        """Return where this machine has CIFAR, which may be where nodes have it too."""
        for official in (CIFAR10, CIFAR100):
            if official.key in self._data_sets:
                try:
                    return str(find_cifar(self.options.data_dir, official).resolve().parent)
                except DataError:
                    return None
        return None

    def _shipped(self) -> dict[str, Any]:
        """Put the data sets into the object store, once, as far as this machine has them; nodes say what is missing."""
        for official in (CIFAR10, CIFAR100):
            if official.key not in self._data_sets or any(name.startswith(official.key) for name in self._data):
                continue
            try:
                path = find_cifar(self.options.data_dir, official)
            except DataError:
                continue
            with TemporaryDirectory(prefix="normbench-") as folder:
                file = write_npz(read_arrays(path, official), Path(folder), official)
                self._data[file.name] = self.ray.put(file.read_bytes())
        return self._data


def devices_of_seeds(plans: Sequence[RunPlan], folder: Path) -> dict[int, str]:
    """Return the names of the devices that runs were trained on, by their seeds: completed ones before others."""
    found: dict[int, str] = {}
    begun: dict[int, str] = {}
    for plan in plans:
        try:
            run = read_run(folder / plan.run_id)
        except RunError:
            continue
        if name := run.environment.get("device_name"):
            (found if run.is_completed else begun).setdefault(plan.config.seed, str(name))
    return {**begun, **found}
