"""Runs in a worker process: a killed one is a result, completed ones are kept, a stop is clean."""

import os
import signal
from pathlib import Path

import pytest
from filelock import FileLock
from style_cases import tiny_run

from normbench.errors import FolderBusyError, RunError
from normbench.style.config import StyleRunConfig
from normbench.style.events import StyleEvent, StyleSteps
from normbench.style.records import read_style_experiment, read_style_run
from normbench.style.run import StyleRunEnded, run_styles
from normbench.workers import Worker

CONFIGS = [tiny_run("in"), tiny_run("none")]


def test_a_killed_run_is_a_result_and_completed_ones_are_kept(tmp_path: Path, features_run: Path) -> None:
    ended: list[tuple[str, str, bool]] = []
    killed: list[int] = []

    def listen(config: StyleRunConfig, event: StyleEvent | StyleRunEnded) -> None:
        if isinstance(event, StyleSteps) and not killed:
            pid = worker._process.pid
            assert pid is not None
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)
        if isinstance(event, StyleRunEnded):
            ended.append((config.norm.name, event.result.state, event.skipped))

    with Worker() as worker:
        options = {"features_run": features_run, "data_dir": None, "program": {"commit": "abc"}}
        assert not run_styles(tmp_path, CONFIGS, worker, listen, **options)
        assert ended == [("in", "failed", False), ("none", "completed", False)]
        ended.clear()
        assert run_styles(tmp_path, CONFIGS, worker, listen, **options)
        assert ended == [("in", "completed", False), ("none", "completed", True)]

        stopped = run_styles(
            tmp_path, CONFIGS, worker, listen, force=True, stop_requested=lambda: len(ended) > 2, **options
        )
        assert not stopped
        assert ended[2:] == [("in", "completed", False)]

    runs = {run.config.norm.name: run for run in read_style_experiment(tmp_path)}
    run = runs["in"]
    assert run.losses.shape == (3, 4)
    assert run.environment["commit"] == "abc"
    assert run.environment["device"] == "cpu"
    assert run.samples is not None
    assert run.samples.stylized.shape == (6, 32, 32, 3)
    assert run.result.summary is not None
    assert run.losses[-1, 2] == pytest.approx(run.result.summary.style_loss, rel=1e-5)
    files = {path.name for path in run.folder.iterdir()} - {".lock"}
    assert files == {"config.yaml", "environment.json", "losses.csv", "model.pt", "result.json", "samples.npz"}


def test_a_folder_that_another_process_writes_is_left_alone(tmp_path: Path, features_run: Path) -> None:
    folder = tmp_path / CONFIGS[0].run_id
    folder.mkdir()
    with FileLock(folder / ".lock"), Worker() as worker, pytest.raises(FolderBusyError, match="another process"):
        run_styles(tmp_path, CONFIGS[:1], worker, lambda *_: None, features_run=features_run, data_dir=None, program={})
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no style-transfer runs there"):
        read_style_experiment(tmp_path)
    with pytest.raises(RunError, match="not a readable style-transfer run"):
        read_style_run(tmp_path)
