"""Style transfer in the runner that all tasks share: a killed run is a result, a stopped one goes on where it was.

What the runner does for every task alike is in tests/experiment/test_experiment_run.py.
"""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from local_worker import LocalWorker
from style_cases import tiny_run

from normbench.config.style import StyleRunConfig
from normbench.errors import DivergedError, FolderError, RunError
from normbench.experiment.executor import LocalExecutor
from normbench.experiment.plan import RunPlan
from normbench.experiment.runner import ExperimentRunner, RunBusy, RunEnded, RunProgressed, RunStarted, Stopping
from normbench.experiment.worker_process import Worker
from normbench.runs.events import StepsDone
from normbench.runs.records import read_experiment, read_run, read_samples
from normbench.runs.writer import RunFolder, planned_state
from normbench.worker import targets
from normbench.worker.targets import RunRequest


def plan(config: StyleRunConfig) -> RunPlan:
    return RunPlan(config.run_id, config, 0)


IN, NONE = PLANS = [plan(tiny_run(norm)) for norm in ("in", "none")]


def runner(
    folder: Path, worker: Any, listener: Callable[[Any], None], features_run: Path, **options: Any
) -> ExperimentRunner:
    return ExperimentRunner(folder, LocalExecutor([worker]), listener, prerequisite=features_run, **options)


def endings(seen: list[Any]) -> list[tuple[str, str, bool]]:
    return [(e.plan.config.norm.name, e.status.state, e.skipped) for e in seen if isinstance(e, RunEnded)]


def has_stepped(seen: list[Any]) -> bool:
    return any(isinstance(event, RunProgressed) and isinstance(event.event, StepsDone) for event in seen)


@pytest.mark.slow
def test_a_killed_run_and_a_stopped_one_go_on(tmp_path: Path, features_run: Path) -> None:
    """The real process: killed without a word; then stopped after some steps, and gone on to the end."""
    long = plan(tiny_run("in", train={"steps": 60, "batch_size": 2}))
    seen: list[Any] = []

    def kill(event: Any) -> None:
        seen.append(event)
        if has_stepped([event]):
            pid = worker._process.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)

    with Worker() as worker:
        assert not runner(tmp_path, worker, kill, features_run).run([long])
        assert endings(seen) == [("in", "interrupted", False)]
        assert seen[-1].status.reason.startswith("the training process was killed by SIGKILL (out of memory?); ")
        (run,) = read_experiment(tmp_path).runs
        assert (run.status.state, run.summary) == ("interrupted", None)
        assert len(run.step_losses) >= 1

        seen.clear()
        stopping = runner(tmp_path, worker, seen.append, features_run)
        assert not stopping.run([long], lambda: has_stepped(seen))
        assert endings(seen) == [("in", "interrupted", False)]
        assert seen[-1].status.reason == "stopped before its end; run the command again to go on"
        stopped = read_run(run.folder)
        assert 0 < len(stopped.step_losses) < 60
        assert planned_state(run.folder) == "resume"

        seen.clear()
        assert runner(tmp_path, worker, seen.append, features_run).run([long])
    assert seen[0] == RunStarted(long, 0, len(stopped.step_losses))
    resumed = read_run(run.folder)
    assert resumed.status.state == "completed"
    assert resumed.step_losses.shape == (60, 4)
    assert resumed.step_losses[: len(stopped.step_losses)].tolist() == stopped.step_losses.tolist()
    assert not (run.folder / "checkpoint.pt").exists()


def test_a_network_that_breaks_in_its_last_step_has_diverged(tmp_path: Path, features_run: Path) -> None:
    """Every loss was finite: each is measured before its step."""
    broken = plan(tiny_run("none", train={"steps": 1, "batch_size": 2, "learning_rate": 1e30}))
    seen: list[Any] = []
    assert not runner(tmp_path, LocalWorker(), seen.append, features_run).run([broken])
    assert endings(seen) == [("none", "diverged", False)]
    assert seen[-1].status.reason.startswith("after the last step (1; learning rate 1e+30) the")
    assert np.isfinite(read_run(tmp_path / broken.run_id).step_losses).all()


def test_failed_runs_wait_for_retry_and_completed_ones_are_kept(tmp_path: Path, features_run: Path) -> None:
    def fail_first(request: RunRequest) -> Iterator[Any]:
        if request.config.norm.name == "in":
            raise DivergedError("loss is nan at step 0 of 3")
        yield from targets.train_run(request)

    seen: list[Any] = []
    assert not runner(tmp_path, LocalWorker(script=fail_first), seen.append, features_run).run(PLANS)
    assert endings(seen) == [("in", "diverged", False), ("none", "completed", False)]
    seen.clear()
    assert not runner(tmp_path, LocalWorker(), seen.append, features_run).run(PLANS)
    assert sorted(endings(seen)) == [("in", "diverged", True), ("none", "completed", True)]
    seen.clear()
    assert runner(tmp_path, LocalWorker(), seen.append, features_run, retry=True).run(PLANS)
    assert sorted(endings(seen)) == [("in", "completed", False), ("none", "completed", True)]

    run = read_run(tmp_path / IN.run_id)
    files = {path.name for path in run.folder.iterdir()} - {".lock"}
    recorded = {"config.yaml", "environment.json", "steps.csv", "status.json", "summary.json"}
    assert files == {*recorded, "model.pt", "samples.npz"}
    assert run.step_losses.shape == (3, 4)
    assert run.environment["normbench"]
    assert run.environment["device"] == "cpu"
    assert read_samples(run.folder)["stylized"].shape == (6, 16, 16, 3)
    assert run.step_losses[-1, 2] == pytest.approx(run.summary.style_loss, rel=1e-5)

    renamed = NONE.config.model_copy(update={"norm": NONE.config.norm.model_copy(update={"label": "mine"})})
    assert runner(tmp_path, LocalWorker(), seen.append, features_run).run([RunPlan(NONE.run_id, renamed, 0)])
    assert read_run(tmp_path / NONE.run_id).config.label == "mine"


def test_a_run_may_be_over_before_its_start_is_recorded(tmp_path: Path, features_run: Path) -> None:
    """As where the parent draws the run before, which takes seconds: what the run has written by then stays."""

    def at_once(request: RunRequest) -> Iterator[Any]:
        yield from list(targets.train_run(request))

    for _ in range(2):
        assert runner(tmp_path, LocalWorker(script=at_once), lambda _: None, features_run, force=True).run([IN])
        assert planned_state(tmp_path / IN.run_id) == "completed"


def test_a_run_that_lost_its_network_or_its_pictures_is_trained_again(tmp_path: Path, features_run: Path) -> None:
    assert runner(tmp_path, LocalWorker(), lambda _: None, features_run).run([IN])
    for name in ("model.pt", "samples.npz"):
        assert planned_state(tmp_path / IN.run_id) == "completed"
        (tmp_path / IN.run_id / name).unlink()
        assert planned_state(tmp_path / IN.run_id) == "new"
        seen: list[Any] = []
        assert runner(tmp_path, LocalWorker(), seen.append, features_run).run([IN])
        assert endings(seen) == [("in", "completed", False)]
        assert (tmp_path / IN.run_id / name).exists()


def test_a_stop_before_the_first_step_still_goes_on_later(tmp_path: Path, features_run: Path) -> None:
    seen: list[Any] = []
    stop = runner(tmp_path, LocalWorker(), seen.append, features_run)
    assert not stop.run(PLANS, lambda: any(isinstance(event, RunStarted) for event in seen))
    assert endings(seen) == [("in", "interrupted", False)]
    assert Stopping() in seen
    assert runner(tmp_path, LocalWorker(), seen.append, features_run).run(PLANS)


def test_a_run_that_another_process_writes_is_taken_over_when_that_ends(tmp_path: Path, features_run: Path) -> None:
    seen: list[Any] = []
    folder = tmp_path / IN.run_id
    folder.mkdir()
    lock = FileLock(folder / ".lock")
    lock.acquire()

    def listen(event: Any) -> None:
        seen.append(event)
        if isinstance(event, RunEnded):  # the other run is done
            assert [path.name for path in folder.iterdir()] == [".lock"] or event.plan == IN
            lock.release()

    assert runner(tmp_path, LocalWorker(), listen, features_run).run(PLANS)
    assert seen[0] == RunBusy(IN)
    assert endings(seen) == [("none", "completed", False), ("in", "completed", False)]


def test_a_full_disk_ends_the_experiment_and_what_was_recorded_stays(
    tmp_path: Path, features_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise FolderError("cannot be written: No space left on device")

    monkeypatch.setattr(RunFolder, "append_steps", full)
    worker = LocalWorker()
    with pytest.raises(FolderError, match="No space left"):
        runner(tmp_path, worker, lambda _: None, features_run).run(PLANS)
    assert worker.was_closed
    run = read_run(tmp_path / IN.run_id)
    assert (run.status.state, run.status.reason) == ("interrupted", "cannot be written: No space left on device")


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no runs there"):
        read_experiment(tmp_path)
    with pytest.raises(RunError, match="not a readable run folder"):
        read_run(tmp_path)
