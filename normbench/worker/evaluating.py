"""Evaluation of trained classifiers in a training process: at the end of a run, or later from its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from normbench.config.schema import EvaluateConfig, RunConfig
from normbench.data.cifar_c import check_official, find_official
from normbench.data.images import ImageDataset
from normbench.engine.batches import DeviceImages
from normbench.engine.checkpoint import CheckpointError, load_checkpoint
from normbench.engine.device import Precision, describe, resolve_device, set_arithmetic
from normbench.errors import RunError
from normbench.evaluation.average import WeightAverage
from normbench.evaluation.corruptions import KINDS
from normbench.evaluation.measure import Subject, evaluate_all
from normbench.runs.evaluation_file import Evaluation
from normbench.runs.records import CHECKPOINT_FILE, read_run
from normbench.worker import classifiers
from normbench.worker.targets import EvaluationRequest
from normbench.worker.trained_model import with_own_code

AVERAGE = "average"
"""The key of a checkpoint under which averaged weights stand."""


def evaluate_model(
    config: RunConfig,
    model: torch.nn.Module,
    average: WeightAverage | None,
    images: tuple[DeviceImages, DeviceImages, ImageDataset],
    evaluate: EvaluateConfig,
    data_dir: Path | None,
) -> Evaluation:
    """Return the evaluation of a network that a run of `config` has trained, on the device where its images are.

    Raises:
        DataError: official corruptions are missing, damaged or of other images.
    """
    train_images, test_images, dataset = images
    precision = config.train.precision
    assert precision != "auto"
    average = average if average is not None and average.count > 1 else None  # one is the last weights
    official = find_official(dataset.name, data_dir) if evaluate.corruptions == "official" else None
    subject = Subject(
        model=model,
        train_images=train_images,
        test_images=test_images,
        class_names=dataset.class_names,
        split=dataset.eval_split,
        device=config.device,
        precision=precision,
        average=average,
        official_corruptions=official,
    )
    facts = describe(config.device)
    measured_on = {"device_name": str(facts["device_name"]), "torch": str(facts["torch"]), "precision": precision}
    return evaluate_all(subject, evaluate).model_copy(update={"measured_on": measured_on})


def check_corruptions(config: RunConfig, data_dir: Path | None) -> None:
    """Look for the official corruptions of a run's test images.

    Raises:
        DataError: they are missing, damaged or of other images.
    """
    _, test_images, dataset = classifiers.images_of(config, data_dir)
    check_official(find_official(dataset.name, data_dir), KINDS, test_images.labels.cpu().numpy())


def evaluate_run(request: EvaluationRequest) -> Evaluation:
    """Return the evaluation of a completed run, whose checkpoint was kept.

    Raises:
        RunError: the run is no classifier, not completed, kept no checkpoint, or is made of code that is not trusted.
        DataError: images or official corruptions are missing or damaged.
        DeviceError: the device is not there.
    """
    record = read_run(request.folder)
    config = record.config
    if not isinstance(config, RunConfig):
        raise RunError(f"{request.folder}: no classifier; only those are evaluated")
    if not record.is_completed:
        raise RunError(f"{request.folder}: no trained network there: the run is {record.status.state}")
    config = with_own_code(config, request.folder, trust_code=request.trust_code)
    model = classifiers.CLASSIFICATION.load_model(config, request.folder)
    average = _kept_average(request.folder, config.run_id, model)
    config = _here(config, request.device)
    precision: Precision = config.train.precision  # type: ignore[assignment]
    set_arithmetic(precision, config.device, reproducible=config.train.reproducible)
    model = model.to(device=torch.device(config.device), memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = classifiers.images_of(config, request.data_dir)
    return evaluate_model(config, model, average, images, request.evaluate, request.data_dir)


def _here(config: RunConfig, device: str | None) -> RunConfig:
    """Return the config for a device of this machine, in fp32 where that has no tf32; its id is another's then."""
    found = resolve_device(device or config.device)
    if found == config.device:
        return config
    precision = "fp32" if config.train.precision == "tf32" else config.train.precision
    train = config.train.model_copy(update={"precision": precision})
    return config.model_copy(update={"device": found, "train": train})


def _kept_average(folder: Path, run_id: str, model: torch.nn.Module) -> WeightAverage | None:
    """Return the averaged weights of a run's checkpoint; None where it has none."""
    average = WeightAverage()

    def take(state: dict[str, Any]) -> None:
        if AVERAGE in state:
            average.load_state_dict(state[AVERAGE], model)

    try:
        load_checkpoint(folder / CHECKPOINT_FILE, run_id, take)
    except CheckpointError as error:
        raise RunError(str(error)) from error
    return average if average.count else None
