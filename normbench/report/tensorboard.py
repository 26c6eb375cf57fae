"""Recorded runs as TensorBoard event files: an optional extra that needs the ``tensorboard`` package, and no torch."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from normbench.errors import EnvironmentProblem
from normbench.report.figure_style import figure_bytes
from normbench.report.page import Report
from normbench.runs.atomic import write_atomically
from normbench.runs.records import REPORT_FOLDER, RunRecord, read_run
from normbench.tasks.task import EpochRow, Task

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


def write_tensorboard(report: Report, *, keep: bool = False) -> Path:
    """Write the scalars of all runs and the report's figures; return the folder for ``tensorboard --logdir``.

    With `keep`, files of runs that are there stay as they are: they grew while the runs trained, and a TensorBoard that
    has them open would lose its place in others.

    Raises:
        EnvironmentProblem: the ``tensorboard`` package is not there.
    """
    require_tensorboard()
    experiment = report.experiment
    runs = (*experiment.runs, *experiment.probes)
    for run in runs:
        if not (keep and (_folder_of(run.folder) / FILE_NAME).is_file()):
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
    _write(_folder_of(run.folder), _scalars(run))


def _folder_of(run_folder: Path) -> Path:
    return run_folder.parent / REPORT_FOLDER / FOLDER / run_folder.name


def loss_tags(task: Task) -> list[str]:
    """Return the tags of a step's losses, in the order of `Task.loss_columns`."""
    columns = task.loss_columns
    return [f"loss/{column}" for column in columns] if len(columns) > 1 else ["loss/step"]


def epoch_values(epoch: EpochRow) -> dict[str, float]:
    """Return what is measured after an epoch, by tag."""
    return {
        "loss/train": epoch.train_loss,
        "loss/test": epoch.test_loss,
        "accuracy/train": epoch.train_accuracy,
        "accuracy/test": epoch.test_accuracy,
        "time/train_seconds": epoch.train_seconds,
        "learning_rate": epoch.learning_rate,
    }


class LiveFile:
    """A run's event file that grows while it trains; it begins with what is recorded of a run that goes on."""

    def __init__(self, run_folder: Path) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        write_run_tensorboard(run_folder)
        self._file = (_folder_of(run_folder) / FILE_NAME).open("ab")
        self._writer: Any = RecordWriter(self._file)

    def append(self, scalars: Sequence[tuple[str, int, float]]) -> None:
        """Append scalars, each a tag, a step and a value, so that a reader sees them at once."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        now = time.time()
        for tag, step, value in scalars:
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            self._writer.write(Event(wall_time=now, step=step, summary=summary).SerializeToString())
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _scalars(run: RunRecord) -> Iterator[Point]:
    """Yield the losses of every step, by step, and what was measured after every epoch, by epoch."""
    begun, (num_steps, elapsed) = _seconds_since_1970(run), _clock(run)
    times = np.interp(np.arange(1, len(run.step_losses) + 1), num_steps, elapsed)
    tags = loss_tags(run.task)
    for step, (seconds, losses) in enumerate(zip(times.tolist(), run.step_losses.tolist(), strict=True), 1):
        for tag, loss in zip(tags, losses, strict=True):
            yield tag, step, begun + seconds, loss
    for epoch, seconds in zip(run.epochs, elapsed[1:].tolist(), strict=False):
        for tag, value in epoch_values(epoch).items():
            yield tag, epoch.epoch, begun + seconds, value


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
    for tag, step, seconds, value in points:
        if isinstance(value, bytes):
            width, height = (int.from_bytes(value[place : place + 4], "big") for place in (16, 20))  # PNG's header
            image = Summary.Image(encoded_image_string=value, width=width, height=height, colorspace=4)
            content = Summary.Value(tag=tag, image=image)
        else:
            content = Summary.Value(tag=tag, simple_value=value)
        writer.write(Event(wall_time=seconds, step=step, summary=Summary(value=[content])).SerializeToString())
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / FILE_NAME, lambda file: file.write(buffer.getvalue()))
