"""Runs in a worker process: a killed one is a result, completed ones are kept, a stopped one goes on where it was."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from local_worker import LocalWorker
from style_cases import tiny_run

from normbench.errors import DivergedError, FolderError, RunError
from normbench.experiment.worker_process import Worker
from normbench.style.config import StyleRunConfig
from normbench.style.events import StyleEvent, StyleSteps
from normbench.style.records import read_style_experiment, read_style_run
from normbench.style.run import Happening, StyleFolder, StyleRunBusy, StyleRunEnded, StyleRunner, planned_state
from normbench.style.training import train_style_run

CONFIGS = [tiny_run("in"), tiny_run("none")]


class Seen:
    """What a runner tells, in brief."""

    def __init__(self) -> None:
        self.endings: list[tuple[str, str, bool]] = []
        self.reasons: list[str | None] = []
        self.kinds: list[str] = []

    def __call__(self, config: StyleRunConfig, event: Happening) -> None:
        self.kinds.append(type(event).__name__)
        if isinstance(event, StyleRunEnded):
            self.endings.append((config.norm.name, event.status.state, event.skipped))
            self.reasons.append(event.status.reason)


def runner(folder: Path, worker: Any, seen: Any, features_run: Path, **options: Any) -> StyleRunner:
    return StyleRunner(folder, worker, seen, features_run, program={"commit": "abc"}, **options)


@pytest.mark.slow
def test_a_killed_run_is_a_failed_result_and_a_stopped_one_goes_on(tmp_path: Path, features_run: Path) -> None:
    """The real process: killed without a word; then stopped after some steps, and gone on to the end."""
    seen = Seen()
    config = tiny_run("in", train={"steps": 60, "batch_size": 2})

    def kill(config: StyleRunConfig, event: Happening) -> None:
        seen(config, event)
        if isinstance(event, StyleSteps):
            pid = worker._process.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)

    with Worker() as worker:
        assert not runner(tmp_path, worker, kill, features_run).run([config])
        assert seen.endings == [("in", "failed", False)]
        assert seen.reasons == ["the training process was killed by SIGKILL (out of memory?)"]
        (run,) = read_style_experiment(tmp_path).runs
        assert (run.status.state, run.summary) == ("failed", None)
        assert len(run.losses) >= 1

        assert not runner(tmp_path, worker, seen, features_run).run([config])
        assert seen.endings[-1] == ("in", "failed", True)  # named and kept
        stopping = runner(tmp_path, worker, seen, features_run, retry=True)
        before = len(seen.kinds)
        assert not stopping.run([config], lambda: "StyleSteps" in seen.kinds[before:])
        assert seen.endings[-1] == ("in", "interrupted", False)
        assert seen.reasons[-1] == "stopped before its end; run the command again to go on"
        stopped = read_style_run(run.folder)
        assert 0 < len(stopped.losses) < 60
        assert planned_state(run.folder) == "resume"

        assert runner(tmp_path, worker, seen, features_run).run([config])
    resumed = read_style_run(run.folder)
    assert resumed.status.state == "completed"
    assert resumed.losses.shape == (60, 4)
    assert resumed.losses[: len(stopped.losses)].tolist() == stopped.losses.tolist()
    assert not (run.folder / "checkpoint.pt").exists()


def test_failed_runs_wait_for_retry_and_completed_ones_are_kept(tmp_path: Path, features_run: Path) -> None:
    seen = Seen()

    def fail_first(config: StyleRunConfig, *arguments: Any) -> Iterator[StyleEvent]:
        if config.norm.name == "in":
            raise DivergedError("loss is nan at step 0 of 3")
        yield from train_style_run(config, *arguments)

    assert not runner(tmp_path, LocalWorker(script=fail_first), seen, features_run).run(CONFIGS)
    assert seen.endings == [("in", "diverged", False), ("none", "completed", False)]
    seen = Seen()
    assert not runner(tmp_path, LocalWorker(), seen, features_run).run(CONFIGS)
    assert seen.endings == [("in", "diverged", True), ("none", "completed", True)]
    seen = Seen()
    assert runner(tmp_path, LocalWorker(), seen, features_run, retry=True).run(CONFIGS)
    assert seen.endings == [("in", "completed", False), ("none", "completed", True)]
    run = next(run for run in read_style_experiment(tmp_path).runs if run.config.norm.name == "in")
    files = {path.name for path in run.folder.iterdir()} - {".lock"}
    recorded = {"config.yaml", "environment.json", "losses.csv", "status.json", "summary.json"}
    assert files == {*recorded, "model.pt", "samples.npz"}
    assert run.losses.shape == (3, 4)
    assert (run.environment["commit"], run.environment["device"]) == ("abc", "cpu")
    assert run.samples is not None
    assert run.samples.stylized.shape == (6, 16, 16, 3)
    assert run.summary is not None
    assert run.losses[-1, 2] == pytest.approx(run.summary.style_loss, rel=1e-5)

    renamed = CONFIGS[1].model_copy(update={"norm": CONFIGS[1].norm.model_copy(update={"label": "mine"})})
    assert runner(tmp_path, LocalWorker(), seen, features_run).run([renamed])
    assert read_style_run(tmp_path / renamed.run_id).config.label == "mine"


def test_a_stop_before_the_first_step_still_goes_on_later(tmp_path: Path, features_run: Path) -> None:
    seen = Seen()
    stop = runner(tmp_path, LocalWorker(), seen, features_run)
    assert not stop.run(CONFIGS, lambda: "StyleStarted" in seen.kinds)
    assert seen.endings == [("in", "interrupted", False)]
    assert "StyleStopping" in seen.kinds
    assert runner(tmp_path, LocalWorker(), seen, features_run).run(CONFIGS)


def test_a_run_that_another_process_writes_is_left_to_it(tmp_path: Path, features_run: Path) -> None:
    seen = Seen()
    folder = tmp_path / CONFIGS[0].run_id
    folder.mkdir()
    with FileLock(folder / ".lock"):
        assert not runner(tmp_path, LocalWorker(), seen, features_run).run(CONFIGS)
    assert [path.name for path in folder.iterdir()] == [".lock"]
    assert seen.kinds[0] == StyleRunBusy.__name__
    assert seen.endings == [("none", "completed", False)]


def test_a_full_disk_ends_the_experiment_and_what_was_recorded_stays(
    tmp_path: Path, features_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise FolderError("cannot be written: No space left on device")

    monkeypatch.setattr(StyleFolder, "append_losses", full)
    worker = LocalWorker()
    with pytest.raises(FolderError, match="No space left"):
        runner(tmp_path, worker, Seen(), features_run).run(CONFIGS)
    assert worker.was_killed
    run = read_style_run(tmp_path / CONFIGS[0].run_id)
    assert (run.status.state, run.status.reason) == ("interrupted", "cannot be written: No space left on device")


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no style-transfer runs there"):
        read_style_experiment(tmp_path)
    with pytest.raises(RunError, match="not a readable style-transfer run"):
        read_style_run(tmp_path)
