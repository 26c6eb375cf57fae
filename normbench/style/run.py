"""Running a style-transfer experiment: hand runs to a worker process and record what it sends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from normbench.errors import FolderBusyError, FolderError, RunError
from normbench.experiment.worker_process import Failed, Finished, Worker
from normbench.runs.events import CheckpointFailed, FactsLearned
from normbench.runs.records import STYLE_LOSSES_FILE, State, Status
from normbench.runs.writer import PlannedState, WrittenFolder, explained, is_due, state_of
from normbench.style.config import StyleRunConfig
from normbench.style.events import StepLosses, StyleEvent, StyleStarted, StyleSteps, StyleTrained
from normbench.style.records import LOSSES_HEADER, MODEL_FILE, SAMPLES_FILE, Samples, StyleSummary, read_style_run

TRAIN = "normbench.style.training:train_style_run"

_SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True)
class StyleRunEnded:
    """A run ended, or was ended already (`skipped`)."""

    status: Status
    summary: StyleSummary | None
    skipped: bool = False


@dataclass(frozen=True)
class StyleRunBusy:
    """Another process is writing the run, which is left to it."""


@dataclass(frozen=True)
class StyleStopping:
    """The run is asked to stop; it ends its step and saves a checkpoint."""


Happening = StyleEvent | StyleRunEnded | StyleRunBusy | StyleStopping
Listener = Callable[[StyleRunConfig, Happening], None]


def planned_state(path: Path) -> PlannedState:
    """Return what running a run would find in its folder."""
    try:
        run = read_style_run(path)
    except RunError:
        return "new"
    return state_of(path, run.status, has_result=run.summary is not None and (path / MODEL_FILE).is_file())


@dataclass
class StyleRunner:
    """Trains an experiment's runs one after the other on one worker.

    What a run sends is written at once, so that whatever happens loses no more than what the run's checkpoint lacks.
    """

    folder: Path
    worker: Worker
    listener: Listener
    features_run: Path | None
    data_dir: Path | None = None
    program: Mapping[str, Any] = field(default_factory=dict)
    """For `environment.json`."""
    force: bool = False
    retry: bool = False

    def run(self, configs: Sequence[StyleRunConfig], stop_requested: Callable[[], bool] = lambda: False) -> bool:
        """Train what is not done yet; return whether every run is completed.

        A run that fails or diverges is recorded, and the next one starts. When `stop_requested`, the run in training
        ends with a checkpoint to go on from, and no other is started.

        Raises:
            FolderError: a folder cannot be written.
        """
        num_completed = 0
        for config in configs:
            if stop_requested():
                break
            folder = StyleFolder(self.folder / config.run_id)
            if not self._is_kept(folder.path):
                try:
                    folder.acquire()
                except FolderBusyError:
                    self.listener(config, StyleRunBusy())
                    continue
            try:
                if self._is_kept(folder.path):  # still: another process may have run it meanwhile
                    ended = self._keep(config, folder)
                else:
                    ended = self._train(config, folder, stop_requested)
            finally:
                folder.release()
            num_completed += ended.status.state == "completed"
            self.listener(config, ended)
        return num_completed == len(configs)

    def _is_kept(self, path: Path) -> bool:
        return not is_due(planned_state(path), force=self.force, retry=self.retry)

    def _keep(self, config: StyleRunConfig, folder: StyleFolder) -> StyleRunEnded:
        run = read_style_run(folder.path)
        if run.config.label != config.label:
            folder.write_config(config)
        return StyleRunEnded(run.status, run.summary, skipped=True)

    def _train(self, config: StyleRunConfig, folder: StyleFolder, stop_requested: Callable[[], bool]) -> StyleRunEnded:
        resume = planned_state(folder.path) == "resume" and not self.force
        if self.force:
            folder.clear()
        self.worker.revive()
        self.worker.submit(TRAIN, config, self.features_run, self.data_dir, folder.path, resume)
        try:
            return self._follow(config, folder, stop_requested)
        except BaseException as error:
            self.worker.kill()
            with suppress(FolderError):  # a full disk, say: the status stays "running", which counts as interrupted
                _end(folder, config, "interrupted", str(error) or "interrupted")
            raise

    def _follow(self, config: StyleRunConfig, folder: StyleFolder, stop_requested: Callable[[], bool]) -> StyleRunEnded:
        """Record a run's messages to the last, and return how it ended."""
        facts: dict[str, Any] = {}
        summary: StyleSummary | None = None
        is_stopping = False
        while True:
            if stop_requested() and not is_stopping:
                is_stopping = True
                self.listener(config, StyleStopping())
                self.worker.stop()
            if not wait([self.worker.connection], timeout=_SECONDS_BETWEEN_LOOKS):
                continue
            message = self.worker.receive()
            if isinstance(message, Finished):
                if summary is not None:
                    return StyleRunEnded(folder.finish(summary, keep_checkpoint=False), summary)
                return _end(folder, config, "interrupted", "stopped before its end; run the command again to go on")
            if isinstance(message, Failed):
                if message.traceback:
                    folder.write_error(message.traceback)
                state: State = "diverged" if message.kind == "DivergedError" else "failed"
                return _end(folder, config, "interrupted" if is_stopping else state, message.message)
            event: StyleEvent = message.value
            if isinstance(event, StyleStarted):
                folder.begin(config, event.losses)
                facts = {**self.program, **event.facts}
                folder.write_environment(facts)
            elif isinstance(event, StyleSteps):
                folder.append_losses(event.losses)
            elif isinstance(event, StyleTrained):
                summary = event.summary
                folder.write_samples(event.samples)
            elif isinstance(event, FactsLearned):
                facts |= event.facts
                folder.write_environment(facts)
            else:
                assert isinstance(event, CheckpointFailed)
            self.listener(config, event)


def _end(folder: StyleFolder, config: StyleRunConfig, state: State, reason: str) -> StyleRunEnded:
    if not (folder.path / STYLE_LOSSES_FILE).exists():
        folder.begin(config)  # it ended before it started, and still is a row
    return StyleRunEnded(folder.set_status(state, reason), None)


class StyleFolder(WrittenFolder):
    """One run's folder while it is written, between `acquire` and `release`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._num_steps = 0

    def begin(self, config: StyleRunConfig, losses: Iterable[StepLosses] = ()) -> None:
        """Write the config, the status, and what a run that goes on has done according to its checkpoint."""
        self.remove_left_overs()
        with explained(self.path):
            for name in (SAMPLES_FILE, MODEL_FILE):
                (self.path / name).unlink(missing_ok=True)
        self._num_steps = 0
        self.write(STYLE_LOSSES_FILE, LOSSES_HEADER + self._lines(losses))
        self.write_config(config)
        self.set_status("running")

    def append_losses(self, losses: Iterable[StepLosses]) -> None:
        """Append the losses of further steps."""
        self.append(STYLE_LOSSES_FILE, self._lines(losses))

    def write_samples(self, samples: Samples) -> None:
        """Write the pictures, whole or not at all."""
        partial = self.path / f".{SAMPLES_FILE}.{os.getpid()}.partial"
        with explained(self.path):
            with partial.open("wb") as file:
                np.savez_compressed(file, content=samples.content, stylized=samples.stylized, style=samples.style)
            os.replace(partial, self.path / SAMPLES_FILE)

    def _lines(self, losses: Iterable[StepLosses]) -> str:
        lines = []
        for step, row in enumerate(losses, self._num_steps):
            lines.append(f"{step},{','.join(f'{value:.7g}' for value in row)}\n")
        self._num_steps += len(lines)
        return "".join(lines)
