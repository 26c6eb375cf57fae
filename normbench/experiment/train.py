"""Training one planned run: what happens in the worker process, as a stream of events."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from normbench.config import RunConfig, Value
from normbench.engine.checkpoint import (
    SECONDS_BETWEEN_CHECKPOINTS,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from normbench.engine.device import OutOfMemoryError, describe, set_precision
from normbench.engine.events import CheckpointFailed, EngineFellBack, RunEvent, Started, StepsDone, TrainingDone
from normbench.engine.probes import batch_statistics_accuracy
from normbench.engine.trainer import Trainer
from normbench.experiment.build import build_run_model, load_images


def check_data(name: str, options: Mapping[str, Value], data_dir: Path | None, device: str) -> Iterator[str]:
    """Load the data set and move it to the device; yield where it came from.

    Raises:
        DataError: it is missing or damaged.
    """
    yield load_images(name, options, data_dir, device)[2].source  # type: ignore[arg-type]


def train_run(
    config: RunConfig, data_dir: Path | None, checkpoint: Path, resume: bool, keep: bool
) -> Iterator[RunEvent]:
    """Train the run and yield its events; when closed early, save a checkpoint to go on from.

    Raises:
        DivergedError: a loss is not finite.
        OutOfMemoryError: the device's memory does not hold the run.
    """
    device, precision, engine = config.device, config.train.precision, config.train.engine
    assert precision != "auto"
    assert engine != "auto"
    gc.collect()  # the run before may hold device memory in cycles
    set_precision(precision, device)
    train_images, test_images, dataset = load_images(config.dataset.name, config.dataset.options, data_dir, device)
    trainer = Trainer(
        build_run_model(config),
        train_images,
        test_images,
        config.train,
        seed=config.seed,
        device=device,
        precision=precision,
        engine=engine,
    )
    if resume:
        load_checkpoint(checkpoint, trainer.load_state_dict)
    facts = describe(device) | {
        "precision": precision,
        "engine": engine,
        "memory_format": "channels_last",
        "dataset": dataset.name,
        "dataset_source": dataset.source,
        "eval_split": dataset.eval_split,
        "is_synthetic": dataset.is_synthetic,
    }
    yield Started(trainer.rows, trainer.losses, facts)
    saved_at = time.monotonic()
    fell_back = False
    try:
        for event in trainer.run():
            if trainer.step.fallback_reason and not fell_back:
                fell_back = True
                yield EngineFellBack(trainer.step.fallback_reason)
            if isinstance(event, TrainingDone) and config.probe == "batch_one":
                accuracy = batch_statistics_accuracy(trainer.model, test_images, device, precision)
                event = TrainingDone(event.summary.model_copy(update={"batch_statistics_accuracy": accuracy}))
            yield event
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
    if keep:
        save_checkpoint(trainer.state_dict(), checkpoint)
