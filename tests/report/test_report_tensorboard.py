"""Event files, read back with TensorBoard's own reader."""

from __future__ import annotations

import builtins
import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from normbench.errors import EnvironmentProblem
from normbench.report.page import Report
from normbench.report.tensorboard import (
    FILE_NAME,
    LiveFile,
    require_tensorboard,
    write_run_tensorboard,
    write_tensorboard,
)
from normbench.runs.records import read_experiment, read_run


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def test_scalars_and_figures_are_what_was_recorded(tutorial: Path) -> None:
    folder = write_tensorboard(Report(read_experiment(tutorial)))
    runs = sorted(path.parent for path in tutorial.glob("*/status.json"))
    assert sorted(path.name for path in folder.iterdir()) == sorted(["figures", *(run.name for run in runs)])
    run = read_run(runs[0])
    found = read(folder / run.run_id)
    losses = found.Scalars("loss/step")
    assert [entry.step for entry in losses] == list(range(1, len(run.total_losses) + 1))
    assert [entry.value for entry in losses] == pytest.approx(run.total_losses.astype(np.float32).tolist())
    for tag, field in {
        "loss/train": "train_loss",
        "loss/test": "test_loss",
        "accuracy/train": "train_accuracy",
        "accuracy/test": "test_accuracy",
        "time/train_seconds": "train_seconds",
        "learning_rate": "learning_rate",
    }.items():
        entries = found.Scalars(tag)
        assert [entry.step for entry in entries] == [epoch.epoch for epoch in run.epochs]
        assert [entry.value for entry in entries] == pytest.approx([getattr(epoch, field) for epoch in run.epochs])
    begun = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    elapsed = sum(epoch.train_seconds + epoch.test_seconds for epoch in run.epochs)
    assert losses[-1].wall_time == pytest.approx(begun + elapsed, rel=0, abs=0.01)
    figures = read(folder / "figures")
    assert {"Training loss", "Test accuracy"} <= set(figures.Tags()["images"])
    (image,) = figures.Images("Test accuracy")
    assert Image.open(io.BytesIO(image.encoded_image_string)).size == (image.width, image.height)


def test_writing_again_replaces_the_file_and_leaves_its_bytes(tmp_path: Path, new_run: Callable[..., Path]) -> None:
    run = new_run(tmp_path, "bn", 0, steps_per_epoch=4, state="diverged", reason="nan", diverge_at=3)
    written = []
    for _ in range(2):
        write_run_tensorboard(run)
        (file,) = (tmp_path / "report" / "tensorboard" / run.name).iterdir()
        written.append(file.read_bytes())
    assert file.name == FILE_NAME
    assert written[0] == written[1]
    assert [entry.step for entry in read(file.parent).Scalars("loss/step")] == [1, 2, 3]


def test_a_file_grows_under_a_reader_and_begins_with_what_is_recorded(
    tmp_path: Path, new_run: Callable[..., Path]
) -> None:
    run = new_run(tmp_path, "bn", 0, steps_per_epoch=4)
    recorded = read_run(run).total_losses.astype(np.float32).tolist()
    live = LiveFile(run)
    seen = read(tmp_path / "report" / "tensorboard" / run.name)
    assert [entry.value for entry in seen.Scalars("loss/step")] == pytest.approx(recorded)
    for step in range(1, 4):
        live.append([("loss/step", len(recorded) + step, 0.5), ("accuracy/test", 9 + step, 0.25)])
        seen.Reload()  # what TensorBoard does with the file that it has open
        assert [entry.step for entry in seen.Scalars("loss/step")] == list(range(1, len(recorded) + step + 1))
        assert seen.Scalars("accuracy/test")[-1].step == 9 + step
    live.close()
    before = {path: path.read_bytes() for path in (tmp_path / "report/tensorboard").rglob(FILE_NAME)}
    write_tensorboard(Report(read_experiment(tmp_path)), keep=True)
    assert all(path.read_bytes() == content for path, content in before.items())


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **more: Any) -> Any:
        if name.startswith("tensorboard"):
            raise ImportError(name)
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'normbench\[tensorboard\]'"):
        require_tensorboard()
