"""Runs in a worker process: a killed one is a result, completed ones are kept, a stop is clean."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from local_worker import LocalWorker
from style_cases import tiny_run

from normbench.errors import DivergedError, FolderBusyError, RunError
from normbench.style.config import StyleRunConfig
from normbench.style.events import StyleEvent, StyleSteps
from normbench.style.records import read_style_experiment, read_style_run
from normbench.style.run import StyleRunEnded, run_styles
from normbench.style.training import train_style_run
from normbench.workers import Worker

CONFIGS = [tiny_run("in"), tiny_run("none")]


def test_a_run_whose_process_is_killed_is_a_failed_result(tmp_path: Path, features_run: Path) -> None:
    results = []

    def listen(_config: StyleRunConfig, event: StyleEvent | StyleRunEnded) -> None:
        if isinstance(event, StyleSteps):
            pid = worker._process.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        if isinstance(event, StyleRunEnded):
            results.append(event.result)

    with Worker() as worker:
        assert not run_styles(
            tmp_path, CONFIGS[:1], worker, listen, features_run=features_run, data_dir=None, program={}
        )
    assert [(result.state, result.reason) for result in results] == [
        ("failed", "the training process was killed by SIGKILL (out of memory?)")
    ]
    (run,) = read_style_experiment(tmp_path)
    assert run.result == results[0]
    assert len(run.losses) >= 1


def test_a_failed_run_is_trained_again_and_completed_ones_are_kept(tmp_path: Path, features_run: Path) -> None:
    ended: list[tuple[str, str, bool]] = []

    def listen(config: StyleRunConfig, event: StyleEvent | StyleRunEnded) -> None:
        if isinstance(event, StyleRunEnded):
            ended.append((config.norm.name, event.result.state, event.skipped))

    def fail_first(config: StyleRunConfig, *arguments: Any) -> Iterator[StyleEvent]:
        if config.norm.name == "in":
            raise DivergedError("loss is nan at step 0 of 3")
        yield from train_style_run(config, *arguments)

    options: dict[str, Any] = {"features_run": features_run, "data_dir": None, "program": {"commit": "abc"}}
    assert not run_styles(tmp_path, CONFIGS, LocalWorker(fail_first), listen, **options)  # type: ignore[arg-type]
    assert ended == [("in", "diverged", False), ("none", "completed", False)]
    ended.clear()
    worker: Any = LocalWorker()
    assert run_styles(tmp_path, CONFIGS, worker, listen, **options)
    assert ended == [("in", "completed", False), ("none", "completed", True)]
    run = next(run for run in read_style_experiment(tmp_path) if run.config.norm.name == "in")
    files = {path.name for path in run.folder.iterdir()} - {".lock"}
    assert files == {"config.yaml", "environment.json", "losses.csv", "model.pt", "result.json", "samples.npz"}
    assert run.losses.shape == (3, 4)
    assert (run.environment["commit"], run.environment["device"]) == ("abc", "cpu")
    assert run.samples is not None
    assert run.samples.stylized.shape == (6, 32, 32, 3)
    assert run.result.summary is not None
    assert run.losses[-1, 2] == pytest.approx(run.result.summary.style_loss, rel=1e-5)

    ended.clear()
    stopped = iter([False, True, True, True, True, True])  # asked before a run and after each of its messages
    assert not run_styles(
        tmp_path, CONFIGS, worker, listen, force=True, stop_requested=lambda: next(stopped), **options
    )
    assert ended == [("in", "interrupted", False)]


def test_a_folder_that_another_process_writes_is_left_alone(tmp_path: Path, features_run: Path) -> None:
    folder = tmp_path / CONFIGS[0].run_id
    folder.mkdir()
    worker: Any = LocalWorker()
    with FileLock(folder / ".lock"), pytest.raises(FolderBusyError, match="another process"):
        run_styles(tmp_path, CONFIGS[:1], worker, lambda *_: None, features_run=features_run, data_dir=None, program={})
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no style-transfer runs there"):
        read_style_experiment(tmp_path)
    with pytest.raises(RunError, match="not a readable style-transfer run"):
        read_style_run(tmp_path)
