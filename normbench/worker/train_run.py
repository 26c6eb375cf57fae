"""Training one planned run: what happens in the worker process, as a stream of events."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch

from normbench.config.schema import RunConfig
from normbench.engine.checkpoint import (
    SECONDS_BETWEEN_CHECKPOINTS,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from normbench.engine.device import OutOfMemoryError, describe
from normbench.engine.probes import batch_statistics_accuracy
from normbench.engine.step.train_step import TrainStep
from normbench.engine.trainer import Trainer
from normbench.kernels.launch import Compilation
from normbench.layers.norm_act import describe_paths
from normbench.models import MODELS
from normbench.registry import load
from normbench.runs.events import CheckpointFailed, FactsLearned, RunEvent, Started, StepsDone, TrainingDone
from normbench.runs.records import CHECKPOINT_FILE
from normbench.tasks import TASKS
from normbench.worker.build import load_trainer
from normbench.worker.targets import RunRequest


def compile_ahead(requests: Sequence[RunRequest]) -> None:
    """Compile the kernels of all these runs at once."""
    first: TrainStep | None = None
    with Compilation() as compilation:
        for request in requests:
            if isinstance(request.config, RunConfig):
                with suppress(Exception):
                    step = load_trainer(request.config, request.data_dir)[0].step
                    compilation.add(step.kernel_jobs())
                    first = first or step
        if first is not None:  # meanwhile, because it takes a second or two where libraries come from a cold disk
            with suppress(Exception):
                first.rehearse()


def train_run(request: RunRequest) -> Iterator[RunEvent]:
    """Train the run and yield its events; when closed early, save a checkpoint to go on from.

    Raises:
        DivergedError: a loss is not finite.
        OutOfMemoryError: the device's memory does not hold the run.
    """
    yield from load(TASKS[request.config.task].trainer).train(request)


def train_classifier(request: RunRequest) -> Iterator[RunEvent]:
    """Train the run and yield its events; when closed early, save a checkpoint to go on from.

    Raises:
        DivergedError: a loss is not finite.
        OutOfMemoryError: the device's memory does not hold the run.
    """
    config, checkpoint = request.config, request.folder / CHECKPOINT_FILE
    assert isinstance(config, RunConfig)
    trainer, dataset = load_trainer(config, request.data_dir)
    device, precision = config.device, config.train.precision
    assert precision != "auto"
    if request.resume:
        load_checkpoint(checkpoint, trainer.load_state_dict)
    facts = describe(device) | {
        "precision": precision,
        "engine": config.train.engine,
        "memory_format": "channels_last",
        "dataset": dataset.name,
        "dataset_source": dataset.source,
        "eval_split": dataset.eval_split,
        "is_synthetic": dataset.is_synthetic,
    }
    yield Started(trainer.rows, tuple((loss,) for loss in trainer.losses), facts)
    saved_at = time.monotonic()
    has_stepped = False
    try:
        for event in trainer.run():
            if isinstance(event, TrainingDone) and config.probe == "batch_one":
                accuracy = batch_statistics_accuracy(trainer.model, trainer.test_images, device, precision)
                event = TrainingDone(event.summary.model_copy(update={"batch_statistics_accuracy": accuracy}))
            yield event
            if isinstance(event, StepsDone) and not has_stepped:
                has_stepped = True
                yield FactsLearned(_how_steps_run(trainer, config))
            if isinstance(event, StepsDone) and time.monotonic() - saved_at > SECONDS_BETWEEN_CHECKPOINTS:
                try:
                    save_checkpoint(trainer.state_dict(), checkpoint)
                except CheckpointError as error:
                    yield CheckpointFailed(str(error))
                saved_at = time.monotonic()
    except GeneratorExit:
        save_checkpoint(trainer.state_dict(), checkpoint)
        raise
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(device, config.train.batch_size, error) from error
    if request.keep_checkpoint:
        save_checkpoint(trainer.state_dict(), checkpoint)


def _how_steps_run(trainer: Trainer, config: RunConfig) -> dict[str, Any]:
    """Return what only a step shows: whether the norms run fused, and whether the engine is the one asked for."""
    has_norm = MODELS[config.model.name].family.norms[config.norm.name.partition("+")[0]].kind != "none"
    facts = {"norm_path": describe_paths(trainer.model) if has_norm else "no norm layers"}
    if reason := trainer.step.fallback_reason:
        facts |= {"engine": "eager", "engine_fallback": reason}
    return facts
