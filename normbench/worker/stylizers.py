"""Training style-transfer networks: from a run's config to network, feature network, pictures and trainer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from normbench.config.style import STYLENET, StyleRunConfig
from normbench.data import DATASETS, load_dataset
from normbench.data.images import arrays_sha256
from normbench.data.randomness import derive_seed
from normbench.engine.batches import DeviceImages
from normbench.engine.device import Precision, resolve_device, resolve_engine, resolve_precision, set_arithmetic
from normbench.engine.trainer import Trainer
from normbench.errors import DataError
from normbench.models import MODELS, build_model
from normbench.runs.events import TrainingDone
from normbench.style.apply import load_style_model, save_style_model
from normbench.style.features import RESNET9, VGG16, FeatureNetwork, resnet9_features, vgg16_features
from normbench.style.images import Pixels, cut_to_square, read_folder, read_style, resize_all
from normbench.style.step import StyleTraining
from normbench.tasks.style_transfer import MODEL_FILE
from normbench.worker.interface import STILL, LoadedRun, try_model
from normbench.worker.own import norm_factory, watched

NUM_SAMPLES = 6
"""Images that are shown and never trained on."""


class StyleTransfer:
    """Style transfer in a training process; see `WorkerTask`. The prerequisite is the feature network's run."""

    def resolve(self, draft: Mapping[str, Any]) -> StyleRunConfig:
        """Return the run's config with the device as it is here; precision and engine keep what the config says."""
        return StyleRunConfig.model_validate({**draft, "device": resolve_device(draft["device"])})

    def check_model(self, config: StyleRunConfig) -> None:
        """Look for style and content images, and push one batch through the network on the meta device.

        Raises:
            ImageError: the style image cannot be read.
            DataError: there is no such folder of content images.
            ConfigError: the norm does not fit the network or the batch, or the precision the device.
        """
        read_style(config.style)
        check_content(config.content)
        _precision(config)
        resolve_engine(config.train.engine, config.device)
        norm = norm_factory(config.norm, MODELS[STYLENET].family)
        is_own = config.norm.code is not None  # tried with numbers, because the meta device may lack what it calls
        with torch.device("cpu" if is_own else "meta"):
            network = build_model(STYLENET, norm=watched(norm, config.norm) if is_own else norm)
            num_images = 1 if is_own else config.train.batch_size
            images = torch.rand(num_images, 3, config.image_size, config.image_size)
        try_model(network, images, f"{config.norm.name} does not work in {STYLENET}")

    def check_data(self, config: StyleRunConfig, data_dir: Path | None, prerequisite: Path | None) -> None:
        """Look for the content images, and load the feature network unless it is still to be trained.

        Raises:
            ConfigError: the data set has fewer images than `num_content`.
            DataError: the data set is missing, the folder holds no image, or the feature network cannot be read.
        """
        if config.content not in DATASETS:
            read_folder(Path(config.content), config.image_size, at_most=1)
        elif DATASETS[config.content].needs_files:
            load_dataset(config.content, data_dir=data_dir, num_train=config.num_content, num_test=NUM_SAMPLES)
        if config.features != RESNET9 or prerequisite is not None:
            load_features(config, prerequisite)

    def load_run(self, config: StyleRunConfig, data_dir: Path | None, prerequisite: Path | None) -> LoadedRun:
        """Return the run's trainer on its pictures; its network is written into the run's folder at the end.

        Raises:
            DataError: content, style or feature network cannot be read.
        """
        training_images, shown, problems = load_content(config, data_dir)
        content = _to_device(training_images, config)
        trainer = Trainer(partial(build_training, config, content, shown, prerequisite), config.device)
        settings = trainer.step.settings
        facts = {
            "precision": settings.precision,
            "engine": settings.engine,
            "memory_format": "channels_last",
            "num_content": len(training_images),
            "dataset_sha256": arrays_sha256(training_images, shown),
            "style_sha256": arrays_sha256(read_style(config.style)),
            "features": str(feature_run_folder(config, prerequisite) or config.features),
        }

        def write_model(done: TrainingDone, folder: Path) -> TrainingDone:
            save_style_model(trainer.model, config.norm, folder / MODEL_FILE)
            return done

        return LoadedRun(trainer, facts, write_model, tuple(problems))

    def load_model(self, config: StyleRunConfig, folder: Path) -> nn.Module:
        """Return the network that the run kept.

        Raises:
            DataError: its file is missing or damaged.
        """
        norm = norm_factory(config.norm, MODELS[STYLENET].family) if config.norm.code is not None else None
        network, _ = load_style_model(folder / MODEL_FILE, norm)
        return network

    def load_timed(
        self, config: StyleRunConfig, data_dir: Path | None, prerequisite: Path | None
    ) -> tuple[StyleTraining, float]:
        """Return a training that leaves the weights as they are, and its number of steps."""
        training_images, shown, _ = load_content(config, data_dir)
        still = config.model_copy(update={"train": config.train.model_copy(update={"learning_rate": STILL})})
        training = build_training(still, _to_device(training_images, config), shown, prerequisite)
        return training, config.train.steps


STYLE_TRANSFER = StyleTransfer()


def build_training(
    config: StyleRunConfig, content: DeviceImages, shown: Pixels, prerequisite: Path | None
) -> StyleTraining:
    """Return the run's training on these images; its arithmetic is set."""
    precision = _precision(config)
    set_arithmetic(precision, config.device, reproducible=config.train.reproducible)
    return StyleTraining(
        build_style_network(config),
        load_features(config, prerequisite),
        cut_to_square(read_style(config.style), config.style_size),
        content,
        shown,
        config.train,
        seed=config.seed,
        device=config.device,
        precision=precision,
    )


def build_style_network(config: StyleRunConfig) -> nn.Module:
    """Build the run's network, initialised from its seed; what norms share starts equal."""
    norm = norm_factory(config.norm, MODELS[STYLENET].family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "initialization"))
        return build_model(STYLENET, norm=norm)


def check_content(content: str) -> None:
    """Raise `DataError` unless `content` is a data set or a folder."""
    if content not in DATASETS and not Path(content).is_dir():
        raise DataError(f"content {content}: no such folder, nor a data set ({', '.join(DATASETS)})")


def load_content(config: StyleRunConfig, data_dir: Path | None) -> tuple[Pixels, Pixels, list[str]]:
    """Return training images and `NUM_SAMPLES` to show, ``(N, image_size, image_size, 3)``, and what was left out.

    The images to show are a data set's test images; of a folder, its last images, which then are not trained on unless
    there are too few.

    Raises:
        DataError: the data set or the folder cannot be read.
    """
    size = config.image_size
    if config.content in DATASETS:
        dataset = load_dataset(config.content, data_dir=data_dir, num_train=config.num_content, num_test=NUM_SAMPLES)
        return resize_all(dataset.x_train, size), resize_all(dataset.x_test, size), []
    images, problems = read_folder(Path(config.content), size, config.num_content + NUM_SAMPLES)
    training = images[:-NUM_SAMPLES] if len(images) >= 4 * NUM_SAMPLES else images
    return training, images[-NUM_SAMPLES:], problems


def load_features(config: StyleRunConfig, prerequisite: Path | None) -> FeatureNetwork:
    """Return the feature network that the config names; raises `DataError` where it cannot be read."""
    run_folder = feature_run_folder(config, prerequisite)
    if run_folder is None:
        return vgg16_features(Path(config.vgg16_weights) if config.vgg16_weights else None)
    return resnet9_features(run_folder)


def feature_run_folder(config: StyleRunConfig, prerequisite: Path | None) -> Path | None:
    """Return the folder of the resnet9 run that serves as feature network; None for VGG-16."""
    if config.features == VGG16:
        return None
    return prerequisite if config.features == RESNET9 else Path(config.features)


def _precision(config: StyleRunConfig) -> Precision:
    """Return the precision of the run; `auto` on a CPU is fp32 everywhere, as a run's id does not tell what it was."""
    requested = config.train.precision
    return resolve_precision("fp32" if (requested, config.device) == ("auto", "cpu") else requested, config.device)


def _to_device(images: Pixels, config: StyleRunConfig) -> DeviceImages:
    return DeviceImages(images, np.zeros(len(images), np.int64), config.device, channels_last=True)
