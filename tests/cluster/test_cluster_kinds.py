"""Nodes with GPUs of two names that are not there: who trains what, who times what, and what the report makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from run_events import make_plan, whole_run

from normbench.cluster import site as site_module
from normbench.cluster.host import Task
from normbench.cluster.nodes import Node
from normbench.cluster.options import ClusterOptions
from normbench.cluster.probe import probe
from normbench.cluster.site import ClusterSite, devices_of_seeds
from normbench.config.load import load_config
from normbench.errors import EnvironmentProblem, WorkerError
from normbench.experiment.plan import RunPlan
from normbench.experiment.runner import ExperimentRunner, RunEnded, RunMoved
from normbench.experiment.timing_pass import TimingPass
from normbench.experiment.worker_process import Failed, Finished, Message, Yielded
from normbench.report import Report
from normbench.runs.events import Started
from normbench.runs.records import read_experiment, read_run
from normbench.runs.timing_file import TimedNorm, read_timing
from normbench.worker.targets import TimingResult

SECONDS_PER_STEP = {"H100": 0.25, "H200": 0.125}


class Facts(dict[str, Any]):
    """What a host computes on; Ray's references can be keys, and so can this."""

    __hash__ = object.__hash__  # type: ignore[assignment]


class FakeHost:
    """A host on a node of `FakeRay`: what it is given is done at once, a message a look."""

    def __init__(self, ray: FakeRay, node: Node, num_cpus: int, num_gpus: int, _: Sequence[Any]) -> None:
        self.node, self.num_cpus, self.num_gpus, self.is_lost = node, num_cpus, num_gpus, False
        self.stream: Any = None
        self._ray = ray
        ray.living.append(self)
        used = sum(host.num_gpus for host in ray.living if host.node == node)
        assert used <= node.num_gpus, "more GPUs are taken than the node has"

    def describe(self, device: str) -> Facts:
        return Facts(device=device, device_name=self.node.kind, torch="2.11.0", cuda="13.0")

    def submit_task(self, task: Task) -> None:
        self.stream = object()
        self._messages = self._train(*task.arguments)

    def _train(self, request: Any) -> Iterator[Message]:
        for event in whole_run(request):
            yield Yielded(replace(event, facts=self.describe("cuda")) if isinstance(event, Started) else event)
        yield Finished()

    def received(self) -> list[Message]:
        if self.node.node_id in self._ray.lost:
            self.is_lost = True
            self._ray.living.remove(self)
            return [Failed(WorkerError("node lost"), is_lost=True, is_host_lost=True)]
        return [next(self._messages)]

    def call(self, function: Any, device: str) -> Facts:
        return self.describe(device)

    def submit(self, function: Any, wanted: Sequence[Any], *_: Any) -> None:
        self._ray.timed.append((self, list(self._ray.living), list(self._ray.reserved)))
        seconds = SECONDS_PER_STEP[self.node.kind]
        timed = [
            TimedNorm(
                label=entry.config.label, config=entry.config.timing_fields, seconds_per_step=(seconds, seconds),
                steps_per_block=1, steps_per_epoch=4,
            )
            for entry in wanted
        ]  # fmt: skip
        self._messages = iter([Yielded(TimingResult(tuple(timed), ())), Finished()])

    def receive(self) -> Message:
        return next(self._messages)

    def revive(self) -> None: ...


class FakeReservation:
    """What is kept of a node."""

    def __init__(self, ray: FakeRay, node: Node, num_cpus: int, num_gpus: int) -> None:
        self.node, self.num_cpus, self.num_gpus, self.made, self._ray = node, num_cpus, num_gpus, self, ray
        ray.reserved.append(self)

    def end(self) -> None:
        self._ray.reserved.remove(self)


class FakeRay:
    """As much of Ray as the driver asks for; work on nodes is done when it is looked at."""

    __version__ = "0"
    exceptions = SimpleNamespace(RayError=KeyError)

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.all_nodes = nodes
        self.lost: set[str] = set()
        self.living: list[FakeHost] = []
        self.busy: set[str] = set()
        """Nodes that others compute on, so that nothing has them whole."""
        self.num_free = 1
        self.is_slow = False
        """Whether no host starts while one waits for it."""
        self.reserved: list[FakeReservation] = []
        self.timed: list[tuple[FakeHost, list[FakeHost], list[FakeReservation]]] = []
        """A host that timed norms, with the hosts and reservations of that moment."""

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": node.node_id, "Alive": node.node_id not in self.lost} for node in self.all_nodes]

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 8, "GPU": self.num_free - len(self.living)}

    def wait(self, references: Sequence[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        held_up = [reference for reference in references if isinstance(reference, FakeReservation)]
        is_pending = self.is_slow or any(kept.node.node_id in self.busy for kept in held_up)
        return ([], list(references)) if is_pending else (list(references), [])

    def get(self, reference: Any) -> Any:
        return reference


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    """Two nodes with two H100 each, and one with two H200."""
    kinds = {"a": "H100", "b": "H100", "c": "H200"}
    facts = probe()
    ray = FakeRay([Node(k * 56, f"10.0.0.{k}", 8, 2, {**facts, "gpus": [v, v]}) for k, v in kinds.items()])

    def close_all(ray: FakeRay, hosts: Sequence[FakeHost], *_: Any) -> None:
        ray.living[:] = [host for host in ray.living if host not in hosts]

    monkeypatch.setattr(site_module, "HostProcess", FakeHost)
    monkeypatch.setattr(site_module, "Reservation", FakeReservation)
    monkeypatch.setattr(site_module, "close_all", close_all)
    monkeypatch.setattr(site_module, "read_nodes", lambda *_: list(ray.all_nodes))
    return ray


def open_site(ray: FakeRay) -> ClusterSite:
    loaded = load_config({"norms": ["bn", "gn"], "dataset": "synthetic", "device": "cuda"})
    return ClusterSite(ray, ClusterOptions("auto"), loaded)


def plans_of(seeds: Sequence[int], norms: Sequence[str] = ("bn", "gn", "in", "ln")) -> list[RunPlan]:
    plans = [make_plan(norm, seed=seed) for seed in seeds for norm in norms]
    return [replace(plan, config=plan.config.model_copy(update={"device": "cuda"})) for plan in plans]


def train(site: ClusterSite, folder: Path, plans: Sequence[RunPlan], on_event: Any = lambda _: None) -> bool:
    with site.executor(plans, plans, folder, None) as executor:
        return ExperimentRunner(folder, executor, on_event, max_host_losses=2).run(plans)


def devices(folder: Path) -> dict[int, set[str]]:
    """The names of the devices that each seed's runs were trained on, by what the runs recorded."""
    found: dict[int, set[str]] = {}
    for run in read_experiment(folder).runs:
        found.setdefault(run.config.seed, set()).add(run.environment["device_name"])
    return found


def test_all_norms_of_a_seed_are_trained_on_gpus_of_one_name_and_all_gpus_work(tmp_path, ray) -> None:
    assert train(open_site(ray), tmp_path, plans_of(range(12)))
    found = devices(tmp_path)
    assert len(found) == 12
    assert {len(names) for names in found.values()} == {1}
    assert set.union(*found.values()) == {"H100", "H200"}
    nodes = {run.environment["node"] for run in read_experiment(tmp_path).runs}
    assert nodes == {node.short_id for node in ray.all_nodes}
    tables = Report(read_experiment(tmp_path)).tables
    assert len(tables) == 2
    assert not any("No pairs" in note for table in tables for note in table.notes)


def test_hosts_start_while_the_first_checks_data_and_no_more_than_there_are_runs(tmp_path, ray) -> None:
    plans = plans_of([0])
    with open_site(ray).executor(plans, plans, tmp_path, None):
        assert len(ray.living) == 6
    ray.living.clear()
    with open_site(ray).executor(plans[:1], plans, tmp_path, None):
        assert sorted(host.node.kind for host in ray.living) == ["H100", "H200"]


def test_a_comparison_that_goes_on_keeps_each_seed_on_its_device(tmp_path, ray) -> None:
    first = plans_of(range(6), ("bn",))
    assert train(open_site(ray), tmp_path, first)
    before = devices_of_seeds(first, tmp_path)
    assert {frozenset([name]) for name in before.values()} == {frozenset(["H100"]), frozenset(["H200"])}
    ray.living.clear()
    assert train(open_site(ray), tmp_path, plans_of(range(6)))
    assert devices(tmp_path) == {seed: {name} for seed, name in before.items()}


def test_what_an_interrupted_run_recorded_places_its_seed_and_a_completed_one_before_it(tmp_path, ray) -> None:
    plans = plans_of([3], ("bn", "gn"))
    assert train(open_site(ray), tmp_path, plans)
    for plan, name, state in zip(plans, ("H200", "H100"), ("interrupted", "completed"), strict=True):
        folder = tmp_path / plan.run_id
        (folder / "environment.json").write_text(f'{{"device_name": "{name}"}}')
        (folder / "status.json").write_text((folder / "status.json").read_text().replace("completed", state))
    assert devices_of_seeds(plans, tmp_path) == {3: "H100"}
    assert devices_of_seeds(plans[:1], tmp_path) == {3: "H200"}


def test_where_the_last_node_of_a_name_is_lost_runs_go_on_elsewhere_and_the_report_says_so(tmp_path, ray) -> None:
    plans = plans_of(range(6))
    moved = []

    def lose(event: Any) -> None:
        if isinstance(event, RunEnded):
            run = read_run(tmp_path / event.plan.run_id)
            if run.environment["device_name"] == "H200":
                ray.lost.add(ray.all_nodes[2].node_id)
        if isinstance(event, RunMoved):
            moved.append(event.plan.run_id)

    assert train(open_site(ray), tmp_path, plans, lose)
    split = {seed for seed, names in devices(tmp_path).items() if len(names) == 2}
    assert split
    assert moved
    notes = [note for table in Report(read_experiment(tmp_path)).tables for note in table.notes if "No pairs" in note]
    said = {int(seed) for note in notes for part in note.split("seed ")[1:] for seed in part.split(" ran")[0].split(",")
            if seed.strip().isdecimal()}  # fmt: skip
    assert said
    assert said <= split


def test_norms_are_timed_once_for_each_name_on_a_node_of_their_own_and_times_stay_apart(tmp_path, ray) -> None:
    site, plans = open_site(ray), plans_of(range(6))
    assert train(site, tmp_path, plans)
    trained = list(ray.living)
    for process in site.timing_processes():
        TimingPass(tmp_path, plans, process, lambda _: None).run()
    assert sorted(host.node.kind for host, *_ in ray.timed) == ["H100", "H200"]
    for host, living, reserved in ray.timed:
        assert host in trained, "one that has all loaded goes on"
        assert [other for other in living if other.node == host.node] == [host], "another was there meanwhile"
        (kept,) = reserved
        assert kept.node == host.node
        assert kept.num_cpus + host.num_cpus == host.node.num_cpus
        assert kept.num_gpus + host.num_gpus == host.node.num_gpus
    assert ray.living == ray.reserved == []
    assert {s.environment["device_name"] for s in read_timing(tmp_path).sessions} == {"H100", "H200"}
    for table in Report(read_experiment(tmp_path)).tables:
        seconds = 4 * SECONDS_PER_STEP[table.environment["device_name"]]
        assert {row.time_source for row in table.rows} == {"interleaved"}
        assert {row.epoch_seconds.median for row in table.rows} == {seconds}

    ray.timed.clear()  # another call: all is trained, and each kind is asked again, and has nothing due
    again = open_site(ray)
    for process in again.timing_processes():
        TimingPass(tmp_path, plans, process, lambda _: None).run()
    assert ray.timed == []


def test_a_node_that_others_compute_on_is_left_out_of_timing_with_a_word(tmp_path, ray, capsys) -> None:
    site, plans = open_site(ray), plans_of(range(6))
    assert train(site, tmp_path, plans)
    ray.busy.add(ray.all_nodes[2].node_id)
    for process in site.timing_processes():
        TimingPass(tmp_path, plans, process, lambda _: None).run()
    assert [host.node.kind for host, *_ in ray.timed] == ["H100"]
    assert "no norm is timed on H200: others compute on node cccccccccccc (10.0.0.c)" in capsys.readouterr().err
    assert ray.living == ray.reserved == []


def test_after_a_timing_pass_there_is_a_process_again_and_none_without_a_node(tmp_path, ray) -> None:
    site = open_site(ray)
    assert train(site, tmp_path, plans_of(range(1)))
    assert len(list(site.timing_processes())) == 2
    assert site.process.node in ray.all_nodes
    list(site.timing_processes())
    ray.lost |= {node.node_id for node in ray.all_nodes}
    with pytest.raises(EnvironmentProblem, match="no node is left"):
        _ = site.process


def test_a_cluster_whose_devices_are_all_taken_is_waited_for_with_a_word(ray, capsys) -> None:
    ray.is_slow = True
    open_site(ray)
    assert capsys.readouterr().err == "", "its own host has the only GPU"
    open_site(ray)
    assert capsys.readouterr().err == "normbench: --cluster auto: all devices are taken; waiting for one\n"
