"""Running a style-transfer experiment: hand runs to a worker process and record what it sends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import FileLock, Timeout

from normbench.errors import FolderBusyError, FolderError, RunError
from normbench.records import CONFIG_FILE, ENVIRONMENT_FILE, ERROR_FILE, write_text_atomically
from normbench.style.config import StyleRunConfig
from normbench.style.events import StyleEvent, StyleStarted, StyleSteps, StyleTrained
from normbench.style.records import (
    LOSSES_FILE,
    LOSSES_HEADER,
    MODEL_FILE,
    RESULT_FILE,
    SAMPLES_FILE,
    Samples,
    State,
    StyleResult,
    StyleSummary,
    read_style_run,
)
from normbench.workers import Failed, Finished, Worker

TRAIN = "normbench.style.training:train_style_run"


@dataclass(frozen=True)
class StyleRunEnded:
    """A run ended, or was completed before (`skipped`)."""

    result: StyleResult
    skipped: bool = False


Listener = Callable[[StyleRunConfig, StyleEvent | StyleRunEnded], None]


def run_styles(
    folder: Path,
    configs: Sequence[StyleRunConfig],
    worker: Worker,
    listener: Listener,
    *,
    features_run: Path | None,
    data_dir: Path | None,
    program: Mapping[str, Any],
    force: bool = False,
    stop_requested: Callable[[], bool] = lambda: False,
) -> bool:
    """Train what is not completed yet, one run after the other; return whether every run is completed.

    A run that fails or diverges is recorded, and the next one starts. When `stop_requested`, the run in training is
    marked interrupted (it starts anew next time) and no other is started. `program` goes into `environment.json`.

    Raises:
        FolderError: a folder cannot be written, or another process is writing it.
    """
    num_completed = 0
    for config in configs:
        if stop_requested():
            break
        path = folder / config.run_id
        result = None if force else completed_before(path)
        skipped = result is not None
        if result is None:
            worker.revive()
            with _writing(path) as writer:
                writer.begin(config)
                worker.submit(TRAIN, config, features_run, data_dir, path / MODEL_FILE)
                result = _follow(writer, config, worker, listener, program, stop_requested)
        num_completed += result.state == "completed"
        listener(config, StyleRunEnded(result, skipped))
    return num_completed == len(configs)


def completed_before(path: Path) -> StyleResult | None:
    """Return the result in a run's folder if that run is completed and its model is there."""
    try:
        result = read_style_run(path).result
    except RunError:
        return None
    return result if result.state == "completed" and (path / MODEL_FILE).is_file() else None


def _follow(
    writer: _Writer,
    config: StyleRunConfig,
    worker: Worker,
    listener: Listener,
    program: Mapping[str, Any],
    stop_requested: Callable[[], bool],
) -> StyleResult:
    """Record a run's messages to the last, and return how it ended."""
    summary: StyleSummary | None = None
    while True:
        message = worker.receive()
        if isinstance(message, Finished):
            if summary is None:
                return writer.end("interrupted", "stopped before its end; run the command again to train it anew")
            return writer.end("completed", summary=summary)
        if isinstance(message, Failed):
            if message.traceback:
                writer.write(ERROR_FILE, message.traceback)
            return writer.end("diverged" if message.kind == "DivergedError" else "failed", message.message)
        event: StyleEvent = message.value
        if isinstance(event, StyleStarted):
            writer.write(ENVIRONMENT_FILE, json.dumps({**program, **event.facts}, indent=2) + "\n")
        elif isinstance(event, StyleSteps):
            writer.append_losses(event)
        elif isinstance(event, StyleTrained):
            summary = event.summary
            writer.write_samples(event.samples)
        listener(config, event)
        if stop_requested():
            worker.stop()


class _Writer:
    """Writes the folder of one run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started_at = _now()

    def begin(self, config: StyleRunConfig) -> None:
        """Forget an earlier try and write the config."""
        for name in (LOSSES_FILE, SAMPLES_FILE, MODEL_FILE, ERROR_FILE):
            (self._path / name).unlink(missing_ok=True)
        self.write(CONFIG_FILE, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        self.write(LOSSES_FILE, LOSSES_HEADER)
        self.end("running")

    def write(self, name: str, text: str) -> None:
        write_text_atomically(self._path / name, text)

    def append_losses(self, event: StyleSteps) -> None:
        with (self._path / LOSSES_FILE).open("a", encoding="utf-8") as file:
            for step, losses in enumerate(event.losses, event.first_step):
                file.write(f"{step},{','.join(f'{value:.7g}' for value in losses)}\n")

    def write_samples(self, samples: Samples) -> None:
        np.savez_compressed(
            self._path / SAMPLES_FILE,
            content=samples.content,
            stylized=samples.stylized,
            style=samples.style,
        )

    def end(self, state: State, reason: str | None = None, summary: StyleSummary | None = None) -> StyleResult:
        """Write and return where the run stands."""
        ended_at = None if state == "running" else _now()
        result = StyleResult(
            state=state, reason=reason, started_at=self._started_at, ended_at=ended_at, summary=summary
        )
        self.write(RESULT_FILE, result.model_dump_json(indent=2) + "\n")
        return result


@contextmanager
def _writing(path: Path) -> Iterator[_Writer]:
    """Make a run's folder and be its only writer; what goes wrong with files is a `FolderError`."""
    lock = FileLock(path / ".lock")
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        yield _Writer(path)
    except Timeout:
        raise FolderBusyError(f"{path}: another process is writing this run") from None
    except OSError as error:
        raise FolderError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        lock.release()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
