"""Trackers are told what the runs measure, while they train; their failures end nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import normbench
from normbench.errors import EnvironmentProblem
from normbench.experiment.runner import RunEnded, RunProgressed, RunStarted
from normbench.experiment.tracking import Point, Tracking, open_trackers
from normbench.runs.events import EpochDone, StepsDone

PLAN: Any = SimpleNamespace(run_id="bn-s0", config=SimpleNamespace(task="classification"))
ROW: Any = SimpleNamespace(
    epoch=2, train_loss=1.5, test_loss=1.6, train_accuracy=0.5, test_accuracy=0.4, train_seconds=2.0, learning_rate=0.1
)


class Recorder:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.ended: list[tuple[str, Mapping[str, float]]] = []

    def log(self, points: Sequence[Point]) -> None:
        self.points += points

    def end(self, state: str, results: Mapping[str, float]) -> None:
        self.ended.append((state, results))


def steps(*losses: float) -> RunProgressed:
    return RunProgressed(PLAN, StepsDone(2, 0, tuple((loss,) for loss in losses), 4, 0.5, 100.0))


def ended(**numbers: Any) -> RunEnded:
    summary = SimpleNamespace(model_dump=lambda: numbers)
    return RunEnded(PLAN, SimpleNamespace(state="completed"), summary)  # type: ignore[arg-type]


def test_a_run_that_goes_on_is_followed_from_where_it_is() -> None:
    sink = Recorder()
    opened: list[Path] = []

    def open_sink(_: Any, folder: Path) -> Recorder:
        opened.append(folder)
        return sink

    follow = Tracking("a tracker", Path("runs/x"), open_sink)
    for event in (RunStarted(PLAN, 1, 4), steps(2.0, 1.9), RunProgressed(PLAN, EpochDone(ROW))):
        follow(event)
    follow(ended(test_accuracy=0.4, batch_statistics_accuracy=None))
    follow(steps(1.0))  # after its end nothing is told
    assert opened == [Path("runs/x/bn-s0")]
    assert sink.points[:2] == [Point({"loss/step": 2.0}, 5, None), Point({"loss/step": 1.9}, 6, None)]
    (epoch,) = sink.points[2:]
    assert (epoch.step, epoch.epoch, epoch.values["accuracy/test"]) == (6, 2, 0.4)
    assert sink.ended == [("completed", {"test_accuracy": 0.4})]


def test_a_tracker_that_fails_is_named_once_and_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    sink = Recorder()
    sink.log = lambda _: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    follow = Tracking("a tracker", Path("runs/x"), lambda *_: sink)
    for event in (RunStarted(PLAN, 0, 0), steps(2.0), steps(1.9), ended()):
        follow(event)
    assert capsys.readouterr().err == "normbench: a tracker does not follow bn-s0 any more: division by zero\n"
    assert sink.ended == []


def test_a_missing_package_is_told_before_anything_trains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for name in ("wandb", "mlflow"):
        with pytest.raises(EnvironmentProblem, match=rf"pip install 'normbench\[{name}\]'"):
            open_trackers(tmp_path, **{name: True})


CONFIG = {
    "norms": ["bn"],
    "name": "tracked",
    "device": "cpu",
    "model": "norm_resnet_small",
    "dataset": {"name": "synthetic", "options": {"num_train": 64, "num_test": 20}},
    "train": {"epochs": 2, "batch_size": 32},
}


@pytest.mark.slow
def test_mlflow_holds_what_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    result = normbench.compare(CONFIG, mlflow=True)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("tracked").experiment_id])
    (row,) = result.rows()
    assert (run.info.status, run.info.run_name) == ("FINISHED", result.run_ids[0])
    assert run.data.metrics["test_accuracy"] == pytest.approx(row["test_accuracy"])
    assert run.data.params["train.batch_size"] == "32"
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "loss/step")] == [1, 2, 3, 4]


@pytest.mark.slow
def test_weights_and_biases_keeps_an_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", os.fspath(tmp_path))
    result = normbench.compare(CONFIG, wandb=True)
    assert result.is_complete
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    content = file.read_bytes()
    for expected in (b"loss/step", b"accuracy/test", b"test_accuracy", result.run_ids[0].encode()):
        assert expected in content
