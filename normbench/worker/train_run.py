"""Training one planned run of any task, as a stream of events; and compiling the kernels of several runs at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch

from normbench.engine.checkpoint import (
    SECONDS_BETWEEN_CHECKPOINTS,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from normbench.engine.device import OutOfMemoryError, describe
from normbench.engine.precompile import compile_for
from normbench.engine.step.base import TrainStep
from normbench.layers.norm_act import describe_paths
from normbench.models import MODELS
from normbench.runs.events import CheckpointFailed, FactsLearned, RunEvent, Started, StepsDone, TrainingDone
from normbench.runs.records import CHECKPOINT_FILE
from normbench.worker import classification as classification  # what most processes need, imported while they start
from normbench.worker.interface import LoadedRun
from normbench.worker.targets import RunRequest, task_of


def compile_ahead(requests: Sequence[RunRequest]) -> None:
    """Compile the kernels of all these runs at once."""
    compile_for(_steps_of(requests), load_libraries=True)


def _steps_of(requests: Sequence[RunRequest]) -> Iterator[TrainStep]:
    """Yield the training step of each run that can be built; the others say what is wrong when they are run."""
    for request in requests:
        with suppress(Exception):
            yield _load(request).trainer.step


def train_run(request: RunRequest) -> Iterator[RunEvent]:
    """Train the run and yield its events; when closed early, save a checkpoint to go on from.

    Checkpoints, and what a task keeps of its network, are written into the run's folder; the caller writes the rest.

    Raises:
        CheckpointError: the checkpoint to go on from cannot be read.
        DataError: what the run reads is missing or damaged.
        DivergedError: a loss is not finite.
        OutOfMemoryError: the device's memory does not hold the run.
    """
    config, checkpoint = request.config, request.folder / CHECKPOINT_FILE
    try:
        run = _load(request)
        trainer = run.trainer
        if request.resume:
            load_checkpoint(checkpoint, trainer.load_state_dict)
        yield Started(trainer.rows, trainer.losses, {**describe(config.device), **run.facts}, run.problems)
        yield from _train(run, request)
    except GeneratorExit:
        save_checkpoint(trainer.state_dict(), checkpoint)
        raise
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(config.device, config.train.batch_size, error) from error
    if request.keep_checkpoint:
        save_checkpoint(trainer.state_dict(), checkpoint)


def _load(request: RunRequest) -> LoadedRun:
    return task_of(request.config.task).load_run(request.config, request.data_dir, request.prerequisite)


def _train(run: LoadedRun, request: RunRequest) -> Iterator[RunEvent]:
    """Train to the end, with a checkpoint now and then."""
    saved_at = time.monotonic()
    has_stepped = False
    for event in run.trainer.run():
        yield run.finish(event, request.folder) if isinstance(event, TrainingDone) else event
        if not isinstance(event, StepsDone):
            continue
        if not has_stepped:
            has_stepped = True
            yield FactsLearned(_how_steps_run(run, request))
        if time.monotonic() - saved_at > SECONDS_BETWEEN_CHECKPOINTS:
            try:
                save_checkpoint(run.trainer.state_dict(), request.folder / CHECKPOINT_FILE)
            except CheckpointError as error:
                yield CheckpointFailed(str(error))
            saved_at = time.monotonic()


def _how_steps_run(run: LoadedRun, request: RunRequest) -> dict[str, Any]:
    """Return what only a step shows: whether the norms run fused, and whether the engine is the one asked for."""
    config = request.config
    norm = MODELS[config.model_name].family.norms[config.norm.name.partition("+")[0]]
    facts = {"norm_path": describe_paths(run.trainer.model) if norm.kind != "none" else "no norm layers"}
    if reason := run.trainer.step.fallback_reason:
        facts |= {"engine": "eager", "engine_fallback": reason}
    return facts
