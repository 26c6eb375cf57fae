"""Training one style-transfer network: what happens in the worker process, as a stream of events."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from normbench.config import TrainConfig
from normbench.data import DATASETS, load_dataset
from normbench.data.batches import DeviceImages, epoch_order, normalize
from normbench.data.randomness import derive_seed
from normbench.engine.device import (
    DeviceName,
    Precision,
    autocast,
    describe,
    resolve_device,
    resolve_precision,
    set_precision,
    synchronize,
)
from normbench.engine.optimizer import build_optimizer
from normbench.errors import ConfigError, DataError, DivergedError
from normbench.models import MODELS, build_model
from normbench.norms.training import training_aware_modules
from normbench.style.apply import contrast_changes, stylize_all
from normbench.style.config import STYLENET, StyleRunConfig, StyleTrainConfig
from normbench.style.events import StepLosses, StyleEvent, StyleStarted, StyleSteps, StyleTrained
from normbench.style.features import VGG16, FeatureNetwork, resnet9_features, vgg16_features
from normbench.style.images import MARGIN, Pixels, cut_to_square, pad_image, read_folder, read_style, resize_all
from normbench.style.losses import content_loss, gram_matrix, style_loss, total_variation
from normbench.style.records import Samples, StyleSummary

NUM_SAMPLES = 6
_STEPS_BETWEEN_REPORTS = 100
_SECONDS_BETWEEN_REPORTS = 0.5


def find_device(requested: str) -> Iterator[DeviceName]:
    """Yield the device for ``auto|cpu|cuda|mps``; raises `DeviceError` where it is not there."""
    yield resolve_device(requested)


def check_runs(configs: list[StyleRunConfig]) -> Iterator[None]:
    """Read the style image and push one batch through every network on the meta device, before anything is trained.

    Raises:
        ImageError: the style image cannot be read.
        DataError: there is no such folder of content images.
        ConfigError: a norm does not fit the network or the batch, or the precision the device.
    """
    read_style(configs[0].style)
    check_content(configs[0].content)
    for config in {config.norm.model_dump_json(): config for config in configs}.values():
        resolve_precision(config.train.precision, config.device)
        try:
            with torch.device("meta"):
                batch = torch.empty(config.train.batch_size, 3, config.image_size, config.image_size)
                build_style_network(config).train()(batch)
        except ConfigError:
            raise
        except (ValueError, RuntimeError, ZeroDivisionError) as error:
            raise ConfigError(f"{config.norm.name} does not work in {STYLENET}: {error}") from error
    yield None


def build_style_network(config: StyleRunConfig) -> nn.Module:
    """Build the run's network, initialised from its seed; what norms share starts equal."""
    norm = MODELS[STYLENET].family.make(config.norm.name, **config.norm.options)
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


def load_features(config: StyleRunConfig, run_folder: Path | None) -> FeatureNetwork:
    """Return the feature network that the config names; `run_folder` is that of a resnet9 run."""
    if config.features == VGG16:
        return vgg16_features(Path(config.vgg16_weights) if config.vgg16_weights else None)
    assert run_folder is not None
    return resnet9_features(run_folder)


def check_features(config: StyleRunConfig, run_folder: Path | None) -> Iterator[None]:
    """Load the feature network once, so that what is wrong with it is said before anything is trained."""
    load_features(config, run_folder)
    yield None


def train_style_run(
    config: StyleRunConfig, features_run: Path | None, data_dir: Path | None, model_file: Path
) -> Iterator[StyleEvent]:
    """Train the run and yield its events; the trained network is written to `model_file`.

    Raises:
        DataError: content, style or feature network cannot be read.
        DivergedError: a loss is not finite.
    """
    device = torch.device(config.device)
    precision = resolve_precision(config.train.precision, config.device)
    set_precision(precision, config.device)
    style = cut_to_square(read_style(config.style), config.style_size)
    training, shown, problems = load_content(config, data_dir)
    network = build_style_network(config)
    content = DeviceImages(training, np.zeros(len(training), np.int64), device, channels_last=True)
    features = load_features(config, features_run).to(device)
    trainer = StyleTrainer(network, features, style, content, config.train, config.seed, config.device, precision)
    facts = describe(config.device) | {
        "precision": precision,
        "memory_format": "channels_last",
        "num_content": len(training),
        "features": config.features if features_run is None else str(features_run),
    }
    yield StyleStarted(facts, tuple(problems))
    yield from trainer.run()
    save_style_model(network, config, model_file)
    samples = Samples(shown, stylize_all(network, shown), style)
    padded = torch.from_numpy(np.stack([pad_image(image) for image in shown])).to(device).permute(0, 3, 1, 2)
    changes = contrast_changes(network, normalize(padded), margin=MARGIN)
    yield StyleTrained(trainer.summarize(changes), samples)


class StyleTrainer:
    """Trains one network on content images ``(N, H, W, 3)`` and one style image ``(S, S, 3)``.

    The order of the content images depends on the seed and never on the norm.
    """

    def __init__(
        self,
        network: nn.Module,
        features: FeatureNetwork,
        style: Pixels,
        content: DeviceImages,
        config: StyleTrainConfig,
        seed: int,
        device: DeviceName,
        precision: Precision,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.network = network.to(device=torch.device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._features = features
        self._content = content
        self._config = config
        self._device: DeviceName = device
        self._precision: Precision = precision
        self._clock = clock
        self._order = batch_indices(len(content), config.batch_size, seed)
        self._aware = training_aware_modules(network)
        train = TrainConfig(optimizer="adam", learning_rate=config.learning_rate)
        self._optimizer = build_optimizer(network, train, capturable=False)
        image = normalize(torch.from_numpy(style).to(content.labels.device).permute(2, 0, 1)[None])
        with torch.no_grad():
            self._style_grams = [gram_matrix(maps) for maps in features(image).style]
        self._losses = torch.zeros(config.steps, len(StepLosses._fields), device=content.labels.device)
        self._seconds = 0.0

    def run(self) -> Iterator[StyleSteps]:
        """Train to the end, yielding the losses of some steps at a time.

        Raises:
            DivergedError: a loss is not finite; the steps up to it were yielded.
        """
        num_steps, first = self._config.steps, 0
        self.network.train()
        began = self._clock()
        for step in range(num_steps):
            self._step(step)
            is_due = (step + 1) % _STEPS_BETWEEN_REPORTS == 0 or self._clock() - began > _SECONDS_BETWEEN_REPORTS
            if not is_due and step + 1 < num_steps:
                continue
            rows = [StepLosses(*row) for row in self._losses[first : step + 1].tolist()]  # waits for the device
            self._seconds += self._clock() - began
            broken = next((index for index, row in enumerate(rows) if not math.isfinite(row.total)), None)
            yield StyleSteps(first, tuple(rows if broken is None else rows[: broken + 1]), num_steps)
            if broken is not None:
                raise DivergedError(f"loss is {rows[broken].total} at step {first + broken} of {num_steps}")
            first, began = step + 1, self._clock()

    def _step(self, step: int) -> None:
        config = self._config
        progress = torch.full((), step / config.steps, device=self._losses.device)
        for layer in self._aware:
            layer.before_step(progress)
        batch = self._content.batch(next(self._order).to(self._losses.device))[0]
        images = normalize(batch)
        with autocast(self._device, self._precision):
            with torch.no_grad():
                target = self._features(images).content
            output = self.network(images)
            seen = self._features(output)
        content = content_loss(seen.content, target)
        style = style_loss(seen.style, self._style_grams)
        variation = total_variation(output)
        total = (
            config.content_weight * content + config.style_weight * style + config.total_variation_weight * variation
        )
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()
        self._optimizer.step()
        with torch.no_grad():
            for layer in self._aware:
                layer.after_step()
            self._losses[step] = torch.stack((total, content, style, variation)).detach()  # as `StepLosses`

    def summarize(self, changes: dict[float, float]) -> StyleSummary:
        """Return the run's numbers after `run`."""
        synchronize(self._device)
        last = StepLosses(*self._losses[-max(1, self._config.steps // 10) :].mean(dim=0).tolist())
        return StyleSummary(
            num_steps=self._config.steps,
            num_parameters=sum(parameter.numel() for parameter in self.network.parameters()),
            content_loss=last.content,
            style_loss=last.style,
            total_variation=last.total_variation,
            total_loss=last.total,
            train_seconds=self._seconds,
            contrast_change=changes,
        )


def batch_indices(num_images: int, batch_size: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield the images of each batch, int64 ``(batch_size,)``, without end: every image once before any comes again."""
    waiting = torch.empty(0, dtype=torch.int64)
    for epoch in itertools.count():
        waiting = torch.cat((waiting, epoch_order(num_images, seed, epoch)))
        while len(waiting) >= batch_size:
            yield waiting[:batch_size]
            waiting = waiting[batch_size:]


def save_style_model(network: nn.Module, config: StyleRunConfig, path: Path) -> None:
    """Write the weights, and which norm they belong to, into a file that `load_style_model` reads."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    norm = {"name": config.norm.name, "options": dict(config.norm.options)}
    try:
        torch.save({"format": "normbench-style-1", "norm": norm, "model": network.state_dict()}, partial)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise DataError(f"{path}: the model cannot be written: {str(error).splitlines()[0]}") from error
    finally:
        partial.unlink(missing_ok=True)


def load_style_model(path: Path) -> tuple[nn.Module, str]:
    """Return the network in a file that `save_style_model` wrote, in evaluation mode, and its norm's name.

    Raises:
        DataError: there is no such file, or it is another or a damaged one.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such model; `normbench stylize train` makes one")
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        norm = MODELS[STYLENET].family.make(saved["norm"]["name"], **saved["norm"]["options"])
        network = build_model(STYLENET, norm=norm)
        network.load_state_dict(saved["model"])
    except Exception as error:  # whatever a damaged file leads to
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not a model of `normbench stylize` ({type(error).__name__}: {reason})") from None
    return network.eval(), norm.name
