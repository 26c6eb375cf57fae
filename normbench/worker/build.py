"""From a run's config to the objects that train: norm, model, images. Runs where torch is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from normbench.config.schema import RunConfig, Value
from normbench.data import load_dataset
from normbench.data.images import ImageDataset
from normbench.data.randomness import derive_seed
from normbench.engine.batches import DeviceImages
from normbench.engine.device import DeviceName, autocast, set_precision
from normbench.engine.precompile import rehearse
from normbench.engine.trainer import Trainer
from normbench.errors import ConfigError
from normbench.models import MODELS, build_model


def build_run_model(config: RunConfig) -> nn.Module:
    """Build the run's model on the CPU, initialised from its seed.

    Norms start from constants, so layers that two norms share start equal.
    """
    norm = MODELS[config.model.name].family.make(config.norm.name, **config.norm.options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "initialization"))
        return build_model(config.model.name, norm=norm, **config.model.options)


def check_model(config: RunConfig) -> None:
    """Build the model and push one batch through it.

    On the meta device, for shapes without memory or arithmetic; but on CUDA where the run will be there, because that
    takes milliseconds and the meta device's operations import torch's compiler, which takes seconds.

    Raises:
        ConfigError: an option does not fit, or the norm cannot work at one of the model's sizes.
    """
    is_cuda = config.device == "cuda"
    with torch.device("cuda" if is_cuda else "meta"):
        model = build_run_model(config).to(memory_format=torch.channels_last)
        images = torch.zeros(config.train.batch_size, 3, 32, 32).to(memory_format=torch.channels_last)
    try:
        with _cuda_autocast(config) if is_cuda else nullcontext():
            rehearse(model.train(), images)
    except torch.OutOfMemoryError:
        return  # the norm works; whether there is memory for a run is for the run to say
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ConfigError(
            f"{config.norm.name} does not work in {config.model.name} at batch size {config.train.batch_size}: {error}"
        ) from error


def _cuda_autocast(config: RunConfig) -> torch.autocast:
    assert config.train.precision != "auto"
    return autocast("cuda", config.train.precision)


@lru_cache(maxsize=1)
def _load(name: str, options: tuple[tuple[str, Value], ...], data_dir: Path | None) -> ImageDataset:
    return load_dataset(name, data_dir=data_dir, **dict(options))


@lru_cache(maxsize=1)
def _move(
    name: str, options: tuple[tuple[str, Value], ...], data_dir: Path | None, device: DeviceName
) -> tuple[DeviceImages, DeviceImages, ImageDataset]:
    dataset = _load(name, options, data_dir)
    target = torch.device(device)
    return (
        DeviceImages(dataset.x_train, dataset.y_train, target, channels_last=True),
        DeviceImages(dataset.x_test, dataset.y_test, target, channels_last=True),
        dataset,
    )


def build_trainer(config: RunConfig, train_images: DeviceImages, test_images: DeviceImages) -> Trainer:
    """Return the run's trainer, ready to run or to load a checkpoint; its precision is set."""
    device, precision, engine = config.device, config.train.precision, config.train.engine
    assert precision != "auto"
    assert engine != "auto"
    set_precision(precision, device)
    return Trainer(
        build_run_model(config),
        train_images,
        test_images,
        config.train,
        seed=config.seed,
        device=device,
        precision=precision,
        engine=engine,
    )


def load_trainer(config: RunConfig, data_dir: Path | None) -> tuple[Trainer, ImageDataset]:
    """Return the run's trainer on its images, and their data set."""
    train_images, test_images, dataset = load_images(
        config.dataset.name, config.dataset.options, data_dir, config.device
    )
    return build_trainer(config, train_images, test_images), dataset


def load_images(
    name: str, options: Mapping[str, Value], data_dir: Path | None, device: DeviceName
) -> tuple[DeviceImages, DeviceImages, ImageDataset]:
    """Return the training and test images on the device; the last ones asked for stay there for the next run."""
    return _move(name, tuple(sorted(options.items(), key=lambda item: item[0])), data_dir, device)
