"""Several runs at once in one process: what each computes is what it computes alone, whatever becomes of the others."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import worker_targets
from command import run, signal_group, start, wait_for
from forked_program import import_all, start_forked
from run_events import make_plan

from normbench.config.probes import ProbesConfig
from normbench.config.schema import ModelConfig
from normbench.experiment.executor import LocalExecutor
from normbench.experiment.plan import RunPlan
from normbench.experiment.runner import ExperimentEvent, ExperimentRunner, RunPostponed, RunProgressed
from normbench.experiment.worker_process import Worker
from normbench.runs.events import StepsDone
from normbench.runs.records import read_run

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
NORMS = {"cpu": ["bn", "none"], "cuda": ["bn", "gn", "none", "custom_bn"]}
"""The last has no kernel."""


def plan(norm: str, seed: int = 0, device: str = "cpu", **train: object) -> RunPlan:
    """Return a run that on a GPU takes some thousand steps, so that all run at once for a while."""
    if device == "cpu":
        return make_plan(norm, seed, **train)
    config = make_plan(norm, seed, epochs=20, precision="bf16", engine="graph", **train).config
    options = {"num_train": 1000, "num_test": 100, "seed": 0}
    dataset = config.dataset.model_copy(update={"options": options})
    model = ModelConfig(name="norm_resnet")
    config = config.model_copy(update={"device": device, "dataset": dataset, "model": model})
    return RunPlan(config.run_id, config, 0)


def run_all(
    folder: Path, worker: Worker, plans: list[RunPlan], at_once: int,
    listener: Callable[[ExperimentEvent], None] = lambda _: None, **options: Any,
) -> ExperimentRunner:  # fmt: skip
    runner = ExperimentRunner(folder, LocalExecutor([worker], at_once), listener, **options)
    runner.run(plans)
    return runner


def outcome(folder: Path, plan: RunPlan) -> dict[str, Any]:
    """Return what a run recorded that does not depend on the clock, and its weights where they are kept."""
    record = read_run(folder / plan.run_id)
    rows = [row.model_dump(exclude={"train_seconds", "test_seconds"}) for row in record.epochs]
    steps = (folder / plan.run_id / "steps.csv").read_text()
    found = {"state": record.status.state, "rows": rows, "steps": steps}
    if (checkpoint := folder / plan.run_id / "checkpoint.pt").exists():
        weights = torch.load(checkpoint, weights_only=True)["model"]
        found["weights"] = {name: tensor.cpu().numpy().tobytes() for name, tensor in weights.items()}
    return found


@pytest.fixture(scope="module")
def worker():
    """A process; forked, with nothing to import, where CUDA does not forbid it."""
    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():
            import_all()
            patch.setattr(Worker, "_start", start_forked)
        with Worker() as worker:
            yield worker


class Alone:
    """What runs give that are trained alone, each once."""

    def __init__(self, folder: Path, worker: Worker) -> None:
        self.folder, self.worker = folder, worker

    def __call__(self, plan: RunPlan) -> dict[str, Any]:
        if not (self.folder / plan.run_id).exists():
            run_all(self.folder, self.worker, [plan], 1, keep_checkpoint=True)
        return outcome(self.folder, plan)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, worker) -> Alone:
    return Alone(tmp_path_factory.mktemp("alone"), worker)


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_gives_the_same_bits_alone_and_beside_others(tmp_path, worker, alone, device: str) -> None:
    plans = [plan(norm, seed, device) for seed, norm in enumerate(NORMS[device])]
    order: list[str] = []

    def note(event: ExperimentEvent) -> None:
        if isinstance(event, RunProgressed) and isinstance(event.event, StepsDone):
            order.append(event.plan.run_id)

    run_all(tmp_path, worker, plans, len(plans), note, keep_checkpoint=True)
    last_first = max(order.index(plan.run_id) for plan in plans)
    assert last_first < min(len(order) - order[::-1].index(plan.run_id) for plan in plans)  # they did run at once
    for one in plans:
        assert outcome(tmp_path, one) == alone(one)
        environment = json.loads((tmp_path / one.run_id / "environment.json").read_text())
        assert environment["concurrent_runs"] == len(plans)


@pytest.mark.parametrize("device", DEVICES)
def test_probes_measure_beside_others_what_they_measure_alone(tmp_path, worker, device: str) -> None:
    every = {"cpu": 2, "cuda": 200}[device]
    measured = {
        "landscape": {"every": every},
        "signals": {"every": every},
        "curvature": {"every": 2 * every, "iterations": 2},
    }
    changes = {"model": ModelConfig(name="norm_resnet_small"), "probes": ProbesConfig.model_validate(measured)}
    plans = []
    for seed, norm in enumerate(["bn", "none"]):
        config = plan(norm, seed, device).config.model_copy(update=changes)
        plans.append(RunPlan(config.run_id, config, 0))
    run_all(tmp_path / "beside", worker, plans, 2)
    run_all(tmp_path / "alone", worker, plans, 1)
    for one in plans:
        assert outcome(tmp_path / "beside", one) == outcome(tmp_path / "alone", one)
        beside, alone = (read_run(tmp_path / where / one.run_id).probe_rows for where in ("beside", "alone"))
        assert {name: [row.step for row in rows] for name, rows in beside.items()} == {
            name: list(range(0, read_run(tmp_path / "alone" / one.run_id).total_losses.size, options["every"]))
            for name, options in measured.items()
        }
        pairs = [(beside[name], alone[name]) for name in measured]
        if device == "cpu":
            assert all(ours == theirs for ours, theirs in pairs)
        else:  # cuDNN may add float32 products in another order
            losses = [[row.loss for row in rows["landscape"]] for rows in (beside, alone)]
            assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_that_diverges_leaves_the_others_alone(tmp_path, worker, alone, device: str) -> None:
    doomed = plan("bn", 1, device, optimizer="sgd", learning_rate=1e38)
    survivor = plan("bn", 0, device)
    run_all(tmp_path, worker, [doomed, survivor], 2, keep_checkpoint=True)
    assert outcome(tmp_path, doomed)["state"] == "diverged"
    assert outcome(tmp_path, survivor) == alone(survivor)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_all_runs_of_a_killed_process_go_on_one_by_one(tmp_path, alone, device: str) -> None:
    plans = [plan("bn", 0, device), plan("none", 1, device)]
    postponed = []
    with Worker() as worker:

        def kill(event: ExperimentEvent) -> None:
            if isinstance(event, RunPostponed):
                postponed.append((event.plan.run_id, event.runs_at_once))
            elif isinstance(event, RunProgressed) and not postponed:
                os.kill(worker._process.pid, signal.SIGKILL)

        run_all(tmp_path, worker, plans, 2, kill, keep_checkpoint=True)
    assert sorted(postponed) == sorted((one.run_id, 1) for one in plans)
    for one in plans:
        assert outcome(tmp_path, one) == alone(one)


@pytest.mark.gpu
def test_what_has_no_room_beside_others_is_trained_beside_fewer(tmp_path, alone) -> None:
    """In a process that may take so little of the GPU's memory that it holds some of the runs and not all."""
    plans = [plan(norm, seed, "cuda") for seed, norm in enumerate(NORMS["cuda"])]
    expected = [alone(one) for one in plans]
    peak_mib = max(read_run(alone.folder / one.run_id).summary.peak_memory_mib for one in plans)
    postponed: list[RunPostponed] = []

    def note(event: ExperimentEvent) -> None:
        if isinstance(event, RunPostponed):
            postponed.append(event)

    with Worker() as worker:
        worker.call(worker_targets.limit_gpu_memory, round(2.5 * peak_mib * 2**20))
        run_all(tmp_path, worker, plans, 4, note, keep_checkpoint=True)
    assert postponed
    assert all("out of memory on cuda at batch size 16 of norm_resnet" in event.reason for event in postponed)
    assert [outcome(tmp_path, one) for one in plans] == expected


CONFIG = """
name: c
norms: [bn, none]
dataset: {name: synthetic, options: {num_train: 320, num_test: 100}}
train: {epochs: EPOCHS, batch_size: 32}
"""
"""It trains for longer than the two seconds after which two runs write their first checkpoints."""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
@pytest.mark.parametrize(("device", "epochs"), [("cpu", 5), pytest.param("cuda", 800, marks=pytest.mark.gpu)])
def test_a_program_that_is_stopped_goes_on_with_all_runs_that_it_had_at_once(
    tmp_path, device: str, epochs: int, number: int
) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG.replace("EPOCHS", str(epochs)))
    command = ["compare", "c.yaml", "--device", device, "--runs-at-once"]
    one_gpu = {"CUDA_VISIBLE_DEVICES": "0"}  # with two each would train one of the runs, and not as fast
    straight = run(tmp_path, *command, "1", "--runs-dir", "straight", **one_gpu)
    assert straight.returncode == 0, straight.stderr
    with start(tmp_path, *command, "2", "--runs-dir", "stopped", **one_gpu) as process:
        wait_for(lambda: len([*tmp_path.glob("stopped/c/*/checkpoint.pt")]) == 2, 150)
        signal_group(process, number)
        process.communicate(timeout=60)
    assert not [*tmp_path.glob("stopped/c/*/summary.json")], "it ended before it could be stopped"
    again = run(tmp_path, *command, "2", "--runs-dir", "stopped", **one_gpu)
    assert again.returncode == 0, again.stderr
    for norm in ("BN", "none"):
        assert f"{norm}: goes on after" in again.stderr.replace(" seed 0", "")
    losses = {path.parent.name: path.read_text() for path in tmp_path.glob("straight/c/*/steps.csv")}
    assert losses == {path.parent.name: path.read_text() for path in tmp_path.glob("stopped/c/*/steps.csv")}
    assert len(losses) == 2
