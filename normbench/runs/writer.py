"""Writes a run's folder, of any task: one writer at a time, whole files replaced at once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self

import numpy as np
import yaml
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from pydantic import BaseModel

from normbench.config.schema import BaseRunConfig, Code
from normbench.errors import FolderBusyError, FolderError, RunError
from normbench.runs.atomic import PARTIAL_FILES, remove_left, write_atomically, write_text_atomically
from normbench.runs.evaluation_file import EVALUATION_FILE, Evaluation
from normbench.runs.events import StepLosses
from normbench.runs.probe_files import PROBES_FOLDER, ProbeRow, probe_file
from normbench.runs.records import (
    CHECKPOINT_FILE,
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    ERROR_FILE,
    EXPERIMENT_FILE,
    LOCK_FILE,
    METRICS_FILE,
    OLD_STEPS_FILE,
    RUN_TABLE_FILE,
    STATUS_FILE,
    STEPS_FILE,
    SUMMARY_FILE,
    State,
    Status,
    is_run,
    read_run,
    read_status,
)
from normbench.tasks import TASKS, Task
from normbench.tasks.task import SAMPLES_FILE, EpochRow, Row

PlannedState = Literal["new", "resume", "completed", "failed", "diverged", "unreadable"]
"""What running a planned run would find in its folder.

`unreadable`: the run is completed, or may be, and a file of it cannot be read, so that its record is neither used nor
overwritten.
"""
_ASIDE = ".before"
"""The suffix of what an earlier try left, while a run is made again."""


class RunFolder:
    """One run's folder while it is written, between `acquire` and `release`.

    Every method raises `FolderError` where the folder cannot be written; what was recorded before stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / LOCK_FILE)
        self._started_at = _now()
        self._num_steps = 0

    def acquire(self) -> Self:
        """Make the folder and become its only writer.

        Raises:
            FolderBusyError: another process is writing the folder.
            FolderError: it cannot be made.
        """
        with folder_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise FolderBusyError(f"{self.path}: another process is writing this run") from None
        return self

    def release(self) -> None:
        """Let others write; the lock's file stays, because removing it could let two in at once."""
        self._lock.release()

    @property
    def checkpoint(self) -> Path:
        """Where an unfinished run keeps its state."""
        return self.path / CHECKPOINT_FILE

    def begin(
        self,
        config: BaseRunConfig,
        *,
        rows: Iterable[EpochRow] = (),
        losses: Iterable[StepLosses] = (),
        probe_rows: Mapping[str, Iterable[ProbeRow]] = MappingProxyType({}),
    ) -> None:
        """Write the config, the status, and what a run that goes on has done according to its checkpoint."""
        task = TASKS[config.task]
        self.write_config(config)
        for code in own_code(config):
            if code.source is not None:
                self.write(code.file, code.source.text)
        self._num_steps = 0
        if task.has_epochs:
            self.write(METRICS_FILE, "".join(map(_line_of, rows)))
        self.write(STEPS_FILE, f"step,{','.join(task.loss_columns)}\n" + self._lines_of_steps(losses))
        if probe_rows:
            with folder_errors(self.path):
                (self.path / PROBES_FOLDER).mkdir(exist_ok=True)
        for name, measured in probe_rows.items():
            self.write(probe_file(name), "".join(map(_line_of, measured)))
        self.set_status("running")

    def remove_results(self, task: Task) -> None:
        """Remove the result, or the error, of an earlier try, and what a killed process left half written.

        This comes before the training process is asked for anything, because that may write files of its own.
        """
        with folder_errors(self.path):
            results = (SUMMARY_FILE, EVALUATION_FILE)
            for pattern in (*results, ERROR_FILE, PARTIAL_FILES, OLD_STEPS_FILE, RUN_TABLE_FILE, *task.files):
                for path in self.path.glob(pattern):
                    path.unlink()
            if os.path.lexists(self.path / PROBES_FOLDER):
                _remove(self.path / PROBES_FOLDER)

    def append_steps(self, losses: Iterable[StepLosses]) -> None:
        """Append the losses of further steps."""
        self.append(STEPS_FILE, self._lines_of_steps(losses))

    def append_epoch(self, row: EpochRow) -> None:
        """Append an epoch's row."""
        self.append(METRICS_FILE, _line_of(row))

    def append_probe(self, name: str, row: ProbeRow) -> None:
        """Append what a probe has measured."""
        self.append(probe_file(name), _line_of(row))

    def write_samples(self, samples: Mapping[str, NDArray[np.uint8]]) -> None:
        """Write the images that the report shows, by name."""
        with folder_errors(self.path):
            write_atomically(self.path / SAMPLES_FILE, lambda file: np.savez_compressed(file, **samples))  # type: ignore[arg-type]

    def write_evaluation(self, evaluation: Evaluation) -> None:
        """Write what was measured of the trained network beside its result."""
        self.write(EVALUATION_FILE, evaluation.model_dump_json(indent=1, exclude_none=True) + "\n")

    def _lines_of_steps(self, losses: Iterable[StepLosses]) -> str:
        lines = []
        for row in losses:
            lines.append(f"{self._num_steps},{','.join(f'{loss:.7g}' for loss in row)}\n")
            self._num_steps += 1
        return "".join(lines)

    def write_config(self, config: BaseModel) -> None:
        """Write the config, also over one that differs in no more than the label."""
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        self.write(CONFIG_FILE, text)

    def set_status(self, state: State, reason: str | None = None) -> Status:
        """Write and return where the run stands."""
        ended_at = None if state == "running" else _now()
        status = Status(state=state, reason=reason, started_at=self._started_at, ended_at=ended_at, pid=os.getpid())
        self.write(STATUS_FILE, status.model_dump_json(indent=2) + "\n")
        return status

    def write_error(self, text: str) -> None:
        """Write the traceback of a run that failed because of a bug."""
        self.write(ERROR_FILE, text)

    def write_environment(self, facts: Mapping[str, Any]) -> None:
        """Write what the run ran on."""
        self.write(ENVIRONMENT_FILE, json.dumps(facts, indent=2) + "\n")

    def finish(self, summary: BaseModel, *, keep_checkpoint: bool) -> Status:
        """Write the result: the summary, then the status that makes it count; only then may the checkpoint go."""
        self.write(SUMMARY_FILE, summary.model_dump_json(indent=2) + "\n")
        status = self.set_status("completed")
        with folder_errors(self.path):
            for path in self.path.glob(f"*{_ASIDE}"):
                _remove(path)
            if not keep_checkpoint:
                self.checkpoint.unlink(missing_ok=True)
        return status

    def set_aside(self) -> None:
        """Rename all that is there, for a run that is made again: it goes when the new run is completed."""
        with folder_errors(self.path):
            # The status goes last: a folder without one counts as new, and would be written over after a kill here.
            for path in sorted(self.path.iterdir(), key=lambda path: path.name == STATUS_FILE):
                if path.name != LOCK_FILE and path.suffix != _ASIDE:
                    aside = path.with_name(path.name + _ASIDE)
                    _remove(path) if aside.exists() else path.rename(aside)

    def write(self, name: str, text: str) -> None:
        """Replace a file."""
        with folder_errors(self.path):
            write_text_atomically(self.path / name, text)

    def append(self, name: str, text: str) -> None:
        """Add to the end of a file."""
        with folder_errors(self.path), (self.path / name).open("a", encoding="utf-8") as file:
            file.write(text)


def own_code(config: BaseRunConfig) -> list[Code]:
    """Return the files of a user's own that a run's norm and network are made of."""
    named = (config.norm, getattr(config, "model", None))
    return [part.code for part in named if part is not None and part.code is not None]


def planned_state(folder: Path) -> PlannedState:
    """Return what running a planned run would find in its folder."""
    if not is_run(folder):
        return "new"
    try:
        state = read_status(folder).state
        if state == "completed":
            task = read_run(folder).task
            if all((folder / name).is_file() for name in task.files):
                return "completed"
    except RunError:
        return "unreadable"
    if state == "failed" or state == "diverged":
        return state
    return "resume" if (folder / CHECKPOINT_FILE).exists() else "new"


def is_due(state: PlannedState, *, force: bool = False, retry: bool = False) -> bool:
    """Return whether a run in that state is run, and not kept as it is."""
    return force or not (state == "completed" or (state in ("failed", "diverged", "unreadable") and not retry))


def write_experiment(folder: Path, experiment: BaseModel) -> None:
    """Write the resolved experiment into its folder.

    Raises:
        FolderError: the folder cannot be written.
    """
    with folder_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False)
        write_text_atomically(folder / EXPERIMENT_FILE, text)


def sweep(experiment_folder: Path) -> None:
    """Remove what killed processes left half written, in the experiment's folder and those of its runs."""
    for depth in ("", "*/"):
        remove_left(experiment_folder, depth + PARTIAL_FILES)


class folder_errors:
    """Turn an operating-system error into a `FolderError` that says which folder and why."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, OSError):
            raise FolderError(f"{self._path}: cannot be written: {error.strerror or error}") from error


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _line_of(row: Row) -> str:
    return row.model_dump_json() + "\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
