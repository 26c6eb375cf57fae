"""Recorded runs as TensorBoard event files: an optional extra that needs the ``tensorboard`` package, and no torch."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from normbench.errors import EnvironmentProblem
from normbench.report.figure_style import figure_bytes
from normbench.report.page import Report
from normbench.runs.atomic import write_atomically
from normbench.runs.records import REPORT_FOLDER, RunRecord, read_run

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDER = "tensorboard"
FILE_NAME = "events.out.tfevents.0.normbench"
"""Without time and host, so that writing again replaces the file and its bytes follow from the records."""

Point = tuple[str, int, float, float | bytes]
"""Tag, step, wall time in seconds since 1970, and a scalar's value or an image's PNG bytes."""


def require_tensorboard() -> None:
    """Check that event files can be written.

    Raises:
        EnvironmentProblem: the ``tensorboard`` package is not there.
    """
    try:
        import tensorboard.summary.writer.record_writer  # noqa: F401
    except ImportError:
        raise EnvironmentProblem(
            "--tensorboard needs the tensorboard package: pip install 'normbench[tensorboard]'"
        ) from None


def write_tensorboard(report: Report) -> Path:
    """Write the scalars of all runs and the report's figures; return the folder for ``tensorboard --logdir``.

    Raises:
        EnvironmentProblem: the ``tensorboard`` package is not there.
    """
    require_tensorboard()
    experiment = report.experiment
    runs = (*experiment.runs, *experiment.probes)
    for run in runs:
        _write_run(run)
    last = max(_seconds_since_1970(run) + _clock(run)[1][-1] for run in runs)
    images = [(figure.title, 0, last, figure_bytes(figure.figure, "png")) for figure in report.figures]
    folder = experiment.folder / REPORT_FOLDER / FOLDER
    _write(folder / "figures", iter(images))
    return folder


def write_run_tensorboard(run_folder: Path) -> None:
    """Write the scalars of one run, into its experiment's report folder.

    Raises:
        RunError: the run cannot be read.
    """
    _write_run(read_run(run_folder))


def _write_run(run: RunRecord) -> None:
    _write(run.folder.parent / REPORT_FOLDER / FOLDER / run.run_id, _scalars(run))


def _scalars(run: RunRecord) -> Iterator[Point]:
    """Yield the losses of every step, by step, and what was measured after every epoch, by epoch."""
    begun, (num_steps, elapsed) = _seconds_since_1970(run), _clock(run)
    times = np.interp(np.arange(1, len(run.step_losses) + 1), num_steps, elapsed)
    columns = run.task.loss_columns
    tags = [f"loss/{column}" for column in columns] if len(columns) > 1 else ["loss/step"]
    for step, (time, losses) in enumerate(zip(times.tolist(), run.step_losses.tolist(), strict=True), 1):
        for tag, loss in zip(tags, losses, strict=True):
            yield tag, step, begun + time, loss
    for epoch, time in zip(run.epochs, elapsed[1:].tolist(), strict=False):
        values = {
            "loss/train": epoch.train_loss,
            "loss/test": epoch.test_loss,
            "accuracy/train": epoch.train_accuracy,
            "accuracy/test": epoch.test_accuracy,
            "time/train_seconds": epoch.train_seconds,
            "learning_rate": epoch.learning_rate,
        }
        for tag, value in values.items():
            yield tag, epoch.epoch, begun + time, value


def _clock(run: RunRecord) -> tuple[list[int], NDArray[np.float64]]:
    """Return steps done and seconds of training and evaluation until then, at the start and after each epoch.

    Without epochs, at the start and the end.
    """
    if not run.epochs:
        return [0, len(run.step_losses)], np.array([0.0, run.summary.train_seconds if run.is_completed else 0.0])
    seconds = [0.0, *(epoch.train_seconds + epoch.test_seconds for epoch in run.epochs)]
    return [0, *(epoch.num_steps for epoch in run.epochs)], np.cumsum(seconds)


def _seconds_since_1970(run: RunRecord) -> float:
    return datetime.fromisoformat(run.status.started_at).timestamp()


def _write(folder: Path, points: Iterator[Point]) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    writer: Any = RecordWriter(buffer)
    writer.write(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
    for tag, step, time, value in points:
        if isinstance(value, bytes):
            width, height = (int.from_bytes(value[place : place + 4], "big") for place in (16, 20))  # PNG's header
            image = Summary.Image(encoded_image_string=value, width=width, height=height, colorspace=4)
            content = Summary.Value(tag=tag, image=image)
        else:
            content = Summary.Value(tag=tag, simple_value=value)
        writer.write(Event(wall_time=time, step=step, summary=Summary(value=[content])).SerializeToString())
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / FILE_NAME, lambda file: file.write(buffer.getvalue()))
