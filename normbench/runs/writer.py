"""Writing a run's folder, whatever kind of run it is: one writer at a time, whole files replaced at once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from filelock import FileLock, Timeout
from pydantic import BaseModel

from normbench.errors import FolderBusyError, FolderError
from normbench.runs.records import (
    CHECKPOINT_FILE,
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    ERROR_FILE,
    EXPERIMENT_FILE,
    STATUS_FILE,
    SUMMARY_FILE,
    State,
    Status,
    write_text_atomically,
)

PlannedState = Literal["new", "resume", "completed", "failed", "diverged"]
"""What running a planned run would find in its folder."""

_LOCK_FILE = ".lock"


class WrittenFolder:
    """One run's folder while it is written, between `acquire` and `release`: what all kinds of runs have.

    Every method raises `FolderError` where the folder cannot be written; what was recorded before stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / _LOCK_FILE)
        self._started_at = _now()

    def acquire(self) -> Self:
        """Make the folder and become its only writer.

        Raises:
            FolderBusyError: another process is writing the folder.
            FolderError: it cannot be made.
        """
        with explained(self.path):
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

    def remove_left_overs(self) -> None:
        """Remove the result, or the error, of an earlier try, and what a killed process left half written."""
        with explained(self.path):
            for left_over in (SUMMARY_FILE, ERROR_FILE, ".*.partial"):
                for path in self.path.glob(left_over):
                    path.unlink()

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
        with explained(self.path):
            if not keep_checkpoint:
                self.checkpoint.unlink(missing_ok=True)
        return status

    def clear(self) -> None:
        """Remove what an earlier run of the same config left, for ``--force``."""
        with explained(self.path):
            for path in self.path.iterdir():
                if path.name != _LOCK_FILE:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def write(self, name: str, text: str) -> None:
        """Replace a file."""
        with explained(self.path):
            write_text_atomically(self.path / name, text)

    def append(self, name: str, text: str) -> None:
        """Add to the end of a file."""
        with explained(self.path), (self.path / name).open("a", encoding="utf-8") as file:
            file.write(text)


def state_of(folder: Path, status: Status, *, has_result: bool) -> PlannedState:
    """Return what running a run with that status, and a whole result or none, would find."""
    if status.state == "completed" and has_result:
        return "completed"
    if status.state in ("failed", "diverged"):
        return "failed" if status.state == "failed" else "diverged"
    return "resume" if (folder / CHECKPOINT_FILE).exists() else "new"


def is_due(state: PlannedState, *, force: bool = False, retry: bool = False) -> bool:
    """Return whether a run in that state is run, and not kept as it is."""
    return force or not (state == "completed" or (state in ("failed", "diverged") and not retry))


def write_experiment(folder: Path, experiment: BaseModel) -> None:
    """Write the resolved experiment into its folder.

    Raises:
        FolderError: the folder cannot be written.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False)
        write_text_atomically(folder / EXPERIMENT_FILE, text)


class explained:
    """Turn an operating-system error into a `FolderError` that says which folder and why."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, OSError):
            raise FolderError(f"{self._path}: cannot be written: {error.strerror or error}") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
