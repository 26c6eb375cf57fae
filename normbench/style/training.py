"""Training one style-transfer network: what happens in the worker process, as a stream of events."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from normbench.config.style import STYLENET, StyleRunConfig
from normbench.data import DATASETS, load_dataset
from normbench.data.randomness import derive_seed
from normbench.engine.batches import DeviceImages, normalize
from normbench.engine.checkpoint import (
    SECONDS_BETWEEN_CHECKPOINTS,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    write_tensors,
)
from normbench.engine.device import (
    OutOfMemoryError,
    describe,
    resolve_engine,
    resolve_precision,
    set_precision,
)
from normbench.errors import ConfigError, DataError, first_line
from normbench.models import MODELS, build_model
from normbench.runs.events import CheckpointFailed, FactsLearned, RunEvent, Started, TrainingDone
from normbench.runs.records import CHECKPOINT_FILE
from normbench.style.apply import contrast_changes, stylize_all
from normbench.style.features import VGG16, FeatureNetwork, resnet9_features, vgg16_features
from normbench.style.images import MARGIN, Pixels, cut_to_square, pad_image, read_folder, read_style, resize_all
from normbench.style.trainer import StyleTrainer
from normbench.tasks.style_transfer import MODEL_FILE

NUM_SAMPLES = 6
"""Images that are shown and never trained on."""


def check_runs(configs: list[StyleRunConfig]) -> None:
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
        resolve_engine(config.train.engine, config.device)
        try:
            with torch.device("meta"):
                batch = torch.empty(config.train.batch_size, 3, config.image_size, config.image_size)
                build_style_network(config).train()(batch)
        except ConfigError:
            raise
        except (ValueError, RuntimeError, ZeroDivisionError) as error:
            raise ConfigError(f"{config.norm.name} does not work in {STYLENET}: {error}") from error


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


def train_style_run(
    config: StyleRunConfig,
    features_run: Path | None,
    data_dir: Path | None,
    folder: Path,
    resume: bool,
) -> Iterator[RunEvent]:
    """Train the run and yield its events; when closed early, save a checkpoint to go on from.

    The trained network and the checkpoints are written into `folder`.

    Raises:
        DataError: content, style or feature network cannot be read.
        DivergedError: a loss is not finite.
        OutOfMemoryError: the device's memory does not hold the run.
    """
    device = torch.device(config.device)
    gc.collect()  # the run before may hold device memory in cycles
    precision = resolve_precision(config.train.precision, config.device)
    set_precision(precision, config.device)
    style = cut_to_square(read_style(config.style), config.style_size)
    training, shown, problems = load_content(config, data_dir)
    content = DeviceImages(training, np.zeros(len(training), np.int64), device, channels_last=True)
    trainer = StyleTrainer(
        build_style_network(config),
        load_features(config, features_run),
        style,
        content,
        config.train,
        config.seed,
        config.device,
        precision,
    )
    checkpoint = folder / CHECKPOINT_FILE
    if resume:
        load_checkpoint(checkpoint, trainer.load_state_dict)
    facts = describe(config.device) | {
        "precision": precision,
        "engine": resolve_engine(config.train.engine, config.device),
        "memory_format": "channels_last",
        "num_content": len(training),
        "features": config.features if features_run is None else str(features_run),
    }
    yield Started((), trainer.losses, facts, tuple(problems))
    try:
        yield from _train(trainer, checkpoint)
        save_style_model(trainer.network, config, folder / MODEL_FILE)
        samples = {"content": shown, "stylized": stylize_all(trainer.network, shown), "style": style}
        padded = torch.from_numpy(np.stack([pad_image(image) for image in shown])).to(device).permute(0, 3, 1, 2)
        changes = contrast_changes(trainer.network, normalize(padded), margin=MARGIN)
        yield TrainingDone(trainer.summarize(changes), samples)
    except GeneratorExit:
        save_checkpoint(trainer.state_dict(), checkpoint)
        raise
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(config.device, config.train.batch_size, error) from error


def _train(trainer: StyleTrainer, checkpoint: Path) -> Iterator[RunEvent]:
    """Train to the end, with a checkpoint now and then."""
    saved_at = time.monotonic()
    is_known = False
    for event in trainer.run():
        if not is_known:
            is_known = True
            yield FactsLearned(trainer.how_steps_run())
        yield event
        if time.monotonic() - saved_at > SECONDS_BETWEEN_CHECKPOINTS:
            try:
                save_checkpoint(trainer.state_dict(), checkpoint)
            except CheckpointError as error:
                yield CheckpointFailed(str(error))
            saved_at = time.monotonic()


def save_style_model(network: nn.Module, config: StyleRunConfig, path: Path) -> None:
    """Write the weights, and which norm they belong to, into a file that `load_style_model` reads."""
    norm = {"name": config.norm.name, "options": dict(config.norm.options)}
    try:
        write_tensors({"format": "normbench-style-1", "norm": norm, "model": network.state_dict()}, path)
    except OSError as error:
        raise DataError(f"{path}: the model cannot be written: {first_line(error)}") from error


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
    except Exception as error:  # whatever a damaged file leads to; torch's own advice would be to trust it
        raise DataError(f"{path}: not a model of `normbench stylize` ({type(error).__name__})") from None
    return network.eval(), norm.name
