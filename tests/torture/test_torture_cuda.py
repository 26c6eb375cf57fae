"""Needs a CUDA device: a kill, a fault of the GPU and a full memory cost the run that they hit, and no other."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import worker_targets
from command import start, wait_for

import normbench
from normbench.runs.records import read_run
from normbench.worker import targets

pytestmark = pytest.mark.gpu

CONFIG = {
    "norms": ["bn", "gn", "in"],
    "dataset": {"name": "synthetic", "options": {"num_train": 640, "num_test": 100}},
    "train": {"epochs": 3, "batch_size": 64},
    "device": "cuda",
}


def states(folder: Path) -> dict[str, str]:
    return {path.parent.name[:2]: json.loads(path.read_text())["state"] for path in folder.glob("*/status.json")}


def test_a_fault_in_one_run_leaves_the_others_as_they_would_be(tmp_path: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(targets, "train_run", worker_targets.train_with_a_fault_on_the_gpu)
        comparison = normbench.compare(CONFIG, name="fault", runs_dir=tmp_path)
    assert states(tmp_path / "fault") == {"bn": "completed", "gn": "failed", "in": "completed"}
    assert not comparison.is_complete
    (failed,) = (tmp_path / "fault").glob("gn-*")
    assert "CUDA error" in read_run(failed).status.reason
    assert "train_with_a_fault_on_the_gpu" in (failed / "error.txt").read_text()
    assert normbench.compare(CONFIG, name="fault", runs_dir=tmp_path, retry=True).is_complete


def test_a_full_memory_fails_one_run_and_is_free_for_the_next(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(targets, "train_run", worker_targets.train_with_no_memory_left)
    normbench.compare(CONFIG, name="full", runs_dir=tmp_path)
    assert states(tmp_path / "full") == {"bn": "completed", "gn": "failed", "in": "completed"}
    (failed,) = (tmp_path / "full").glob("gn-*")
    assert "out of memory on cuda at batch size 64 of norm_resnet" in read_run(failed).status.reason


LONG = """
name: long
norm: bn
dataset: {name: synthetic, options: {num_train: 6400, num_test: 500}}
train: {epochs: 100, batch_size: 64, augment: crop_flip, schedule: one_cycle}
device: cuda
"""


def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Killed with its worker, once it has a checkpoint, at a random moment, several times."""
    draw = random.Random(int(os.environ.get("NORMBENCH_TORTURE_SEED", "0")))
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for folder in (undisturbed, killed):
        folder.mkdir()
        (folder / "long.yaml").write_text(LONG)
    with start(undisturbed, "train", "--config", "long.yaml") as calm:
        for _ in range(3):
            with start(killed, "train", "--config", "long.yaml") as process:
                began = time.time()
                wait_for(lambda since=began: saved_since(killed, since))
                time.sleep(draw.uniform(0.0, 0.7))
                os.killpg(process.pid, signal.SIGKILL)
        with start(killed, "train", "--config", "long.yaml") as process:
            err = process.communicate(timeout=100)[1]
        assert process.returncode == 0, err
        assert calm.communicate(timeout=100)
    assert losses(killed) == losses(undisturbed)
    assert len(losses(killed)) == 100 * 100


def saved_since(folder: Path, since: float) -> bool:
    """Return whether there is a newer checkpoint, or the run is completed."""
    found = [*folder.glob("runs/long/*/checkpoint.pt"), *folder.glob("runs/long/*/summary.json")]
    return any(path.stat().st_mtime > since for path in found)


def losses(folder: Path) -> list[str]:
    (path,) = folder.glob("runs/long/*/steps.csv")
    return path.read_text().splitlines()[1:]
