"""Writing a run's folder: one writer at a time, appended rows, whole files replaced at once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from normbench.config import ExperimentConfig, RunConfig
from normbench.errors import FolderBusyError, FolderError
from normbench.records import (
    CHECKPOINT_FILE,
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    ERROR_FILE,
    EXPERIMENT_FILE,
    METRICS_FILE,
    STATUS_FILE,
    STEPS_FILE,
    SUMMARY_FILE,
    EpochRow,
    State,
    Status,
    Summary,
    write_text_atomically,
)

_STEPS_HEADER = "step,loss\n"
_LOCK_FILE = ".lock"


class RunFolder:
    """One run's folder while it is written, between `acquire` and `release`.

    Every method raises `FolderError` where the folder cannot be written; what was recorded before stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / _LOCK_FILE)
        self._started_at = _now()
        self._num_steps = 0

    def acquire(self) -> RunFolder:
        """Make the folder and become its only writer.

        Raises:
            FolderBusyError: another process is writing the folder.
            FolderError: it cannot be made.
        """
        with _explained(self.path):
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

    def begin(self, config: RunConfig, *, rows: Iterable[EpochRow] = (), losses: Iterable[float] = ()) -> None:
        """Write the config, the status, and what a run that goes on has done according to its checkpoint."""
        with _explained(self.path):
            for left_over in (SUMMARY_FILE, ERROR_FILE, ".*.partial"):
                for path in self.path.glob(left_over):
                    path.unlink()
            self.write_config(config)
            write_text_atomically(self.path / METRICS_FILE, "".join(map(_line_of_epoch, rows)))
            self._num_steps = 0
            write_text_atomically(self.path / STEPS_FILE, _STEPS_HEADER + self._lines_of_steps(losses))
        self.set_status("running")

    def write_config(self, config: RunConfig) -> None:
        """Write the config, also over one that differs in no more than the label."""
        with _explained(self.path):
            text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
            write_text_atomically(self.path / CONFIG_FILE, text)

    def set_status(self, state: State, reason: str | None = None) -> Status:
        """Write and return where the run stands."""
        ended_at = None if state == "running" else _now()
        status = Status(state=state, reason=reason, started_at=self._started_at, ended_at=ended_at, pid=os.getpid())
        with _explained(self.path):
            write_text_atomically(self.path / STATUS_FILE, status.model_dump_json(indent=2) + "\n")
        return status

    def write_error(self, text: str) -> None:
        """Write the traceback of a run that failed because of a bug."""
        with _explained(self.path):
            write_text_atomically(self.path / ERROR_FILE, text)

    def write_environment(self, facts: Mapping[str, Any]) -> None:
        """Write what the run ran on."""
        with _explained(self.path):
            write_text_atomically(self.path / ENVIRONMENT_FILE, json.dumps(facts, indent=2) + "\n")

    def append_steps(self, losses: Iterable[float]) -> None:
        """Append the losses of further steps, in nats."""
        self._append(STEPS_FILE, self._lines_of_steps(losses))

    def append_epoch(self, row: EpochRow) -> None:
        """Append an epoch's row."""
        self._append(METRICS_FILE, _line_of_epoch(row))

    def finish(self, summary: Summary, *, keep_checkpoint: bool) -> Status:
        """Write the result: the summary, then the status that makes it count; only then may the checkpoint go."""
        with _explained(self.path):
            write_text_atomically(self.path / SUMMARY_FILE, summary.model_dump_json(indent=2) + "\n")
        status = self.set_status("completed")
        with _explained(self.path):
            if not keep_checkpoint:
                self.checkpoint.unlink(missing_ok=True)
        return status

    def clear(self) -> None:
        """Remove what an earlier run of the same config left, for ``--force``."""
        with _explained(self.path):
            for path in self.path.iterdir():
                if path.name != _LOCK_FILE:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _lines_of_steps(self, losses: Iterable[float]) -> str:
        lines = [f"{self._num_steps + position},{loss:.7g}\n" for position, loss in enumerate(losses)]
        self._num_steps += len(lines)
        return "".join(lines)

    def _append(self, name: str, text: str) -> None:
        with _explained(self.path), (self.path / name).open("a", encoding="utf-8") as file:
            file.write(text)


def write_experiment(folder: Path, experiment: ExperimentConfig) -> None:
    """Write the resolved experiment into its folder.

    Raises:
        FolderError: the folder cannot be written.
    """
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False)
        write_text_atomically(folder / EXPERIMENT_FILE, text)


class _explained:
    """Turn an operating-system error into a `FolderError` that says which folder and why."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, OSError):
            raise FolderError(f"{self._path}: cannot be written: {error.strerror or error}") from error


def _line_of_epoch(row: EpochRow) -> str:
    return row.model_dump_json() + "\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
