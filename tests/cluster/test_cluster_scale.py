"""Ten thousand runs on 64 hosts that are not there: what the driver does, and what that costs it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from run_events import whole_run

from normbench.config.load import load_config
from normbench.engine.memory import MemoryMeter
from normbench.errors import WorkerError
from normbench.experiment.plan import RunPlan, draft_runs, finish_plans
from normbench.experiment.runner import ExperimentRunner, RunEnded, RunMoved
from normbench.experiment.worker_process import Failed, Finished, Message, Yielded
from normbench.report import write_report
from normbench.runs.records import read_run
from normbench.worker import targets
from normbench.worker.targets import RunRequest

NUM_HOSTS = 64


class FakeHosts:
    """Sends what runs send, a message of each host in turn; now and then a host is lost, and another one is there."""

    def __init__(self, loss: float, seed: int = 0) -> None:
        self._held: dict[str, Iterator[Any]] = {}
        self._loss = loss
        self._random = random.Random(seed)
        self.num_messages = 0

    def choose(self, waiting: Sequence[RunPlan]) -> int | None:
        return 0 if waiting and len(self._held) < NUM_HOSTS else None

    def submit(self, run_id: str, request: RunRequest) -> None:
        assert run_id not in self._held
        self._held[run_id] = whole_run(request)

    def wait(self, seconds: float) -> Iterator[tuple[str, Message]]:
        for run_id, events in list(self._held.items()):
            self.num_messages += 1
            if self._random.random() < self._loss:
                del self._held[run_id]
                yield run_id, Failed(WorkerError("node lost"), is_lost=True, is_host_lost=True)
            elif (event := next(events, None)) is None:
                del self._held[run_id]
                yield run_id, Finished()
            else:
                yield run_id, Yielded(event)

    def stop(self, run_id: str) -> None: ...

    def dismiss(self) -> None: ...

    def kill(self, seconds: float) -> None: ...


def plan(num_rates: int, num_seeds: int) -> list[RunPlan]:
    """Return runs of four norms, so many rates and so many seeds, as `compare` plans them."""
    rates = [round(1e-4 * 1.1**index, 9) for index in range(num_rates)]
    loaded = load_config(
        {
            "name": "scale", "norms": ["bn", "gn", "in", "ln"], "model": "norm_resnet", "device": "cpu",
            "dataset": {"name": "synthetic", "options": {"num_train": 64, "num_test": 32}},
            "train": {"epochs": 2, "precision": "fp32"}, "grid": {"train.lr": rates}, "seeds": list(range(num_seeds)),
        }
    )  # fmt: skip
    drafts = draft_runs(loaded)
    return finish_plans(drafts, targets.resolve_runs(drafts))


def run(folder: Path, plans: Sequence[RunPlan], loss: float) -> tuple[list[Any], FakeHosts]:
    events: list[Any] = []

    def keep(event: Any) -> None:
        if isinstance(event, RunEnded | RunMoved):
            events.append(event)

    hosts = FakeHosts(loss)
    assert ExperimentRunner(folder, hosts, keep, max_host_losses=50).run(plans)
    return events, hosts


def test_every_run_is_done_once_whatever_hosts_are_lost(tmp_path) -> None:
    plans = plan(num_rates=2, num_seeds=8)
    assert len(plans) == 64
    events, _ = run(tmp_path, plans, loss=0.05)
    ended = [event.plan.run_id for event in events if isinstance(event, RunEnded)]
    moved = [event.plan.run_id for event in events if isinstance(event, RunMoved)]
    assert sorted(ended) == sorted(plan.run_id for plan in plans)
    assert moved
    for plan_ in plans:
        record = read_run(tmp_path / plan_.run_id)
        assert (record.status.state, len(record.total_losses), len(record.epochs)) == ("completed", 6, 2)
        assert record.environment.get("attempts", 1) == 1 + moved.count(plan_.run_id)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_runs(tmp_path, capsys) -> None:
    began = time.process_time()
    plans = plan(num_rates=25, num_seeds=100)
    planning = time.process_time() - began
    assert len(plans) == 10_000
    began, meter = time.process_time(), MemoryMeter("cpu")  # tests before this one have had memory too
    events, hosts = run(tmp_path, plans, loss=0.01)
    driving, memory = time.process_time() - began, meter.peak_mib()
    assert len([event for event in events if isinstance(event, RunEnded)]) == 10_000
    began = time.process_time()
    write_report(tmp_path)
    reporting = time.process_time() - began
    with capsys.disabled():
        print(
            f"\nprocessor time: planning {planning:.1f} s; {1000 * driving / hosts.num_messages:.2f} ms a message of "
            f"{hosts.num_messages}; report {reporting:.1f} s; memory for driving, at most {memory} MiB more than before"
        )
    assert memory is not None
    assert memory < 1024
    assert 1000 * driving / hosts.num_messages < 5.0
