"""Training classifiers: from a run's config to norm, model, images and trainer."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from normbench.config.schema import EvaluateConfig, ImageFile, RunConfig, Value
from normbench.data import image_shape, load_dataset
from normbench.data.images import ImageDataset
from normbench.data.own import load_own_images
from normbench.data.randomness import derive_seed
from normbench.engine.batches import DeviceImages, normalize
from normbench.engine.checkpoint import load_checkpoint
from normbench.engine.classifier import ClassifierTraining
from normbench.engine.device import (
    DeviceName,
    Precision,
    autocast,
    resolve_device,
    resolve_engine,
    resolve_precision,
    set_arithmetic,
)
from normbench.engine.evaluate import batch_statistics_accuracy
from normbench.engine.probes.schedule import build_probes
from normbench.engine.trainer import Trainer
from normbench.errors import RunError
from normbench.evaluation.average import WeightAverage
from normbench.layers.whitening import Whitening
from normbench.models import build_model
from normbench.norms import AnyNormFactory
from normbench.runs.evaluation_file import Evaluation
from normbench.runs.events import TrainingDone
from normbench.runs.records import CHECKPOINT_FILE
from normbench.worker.interface import STILL, LoadedRun, try_model
from normbench.worker.own import check_logits, model_entry, norm_factory, watched

_WHITENED_IMAGES = 2000
"""The first training images, whose patches a whitening layer takes."""
_MAX_IMAGES_IN_MEMORY, _MAX_PARAMETERS_IN_MEMORY = 256, 5_000_000
"""Up to this size networks are tried on the CPU, in 20 to 200 ms; the meta device first imports for over a second."""
_TRIED_IMAGES = 8
"""Real images that what is of a user's own is tried with."""


class Classification:
    """Classifiers in a training process; see `WorkerTask`."""

    def resolve(self, draft: Mapping[str, Any]) -> RunConfig:
        """Return the run's config with device, precision and engine as they are here."""
        device = resolve_device(draft["device"])
        train = dict(draft["train"])
        train["precision"] = resolve_precision(train["precision"], device)
        train["engine"] = resolve_engine(train["engine"], device)
        return RunConfig.model_validate({**draft, "device": device, "train": train})

    def check_model(self, config: RunConfig) -> None:
        """Build the model and push one batch through it.

        On the meta device, for shapes without memory or arithmetic; but not where the real thing takes milliseconds,
        because the meta device's operations import torch's compiler, which takes seconds: on CUDA where the run will be
        there, and on the CPU for a small network, with convolutions of one image.

        What is of a user's own is tried with a few images of real numbers too: its output must be one of its kind, and
        finite; and the meta device may lack what a norm of a user's own calls.

        Raises:
            ConfigError: an option does not fit, or the norm cannot work at one of the model's sizes.
        """
        norm = norm_factory(config.norm, model_entry(config.model).family)
        if config.norm.code is None:
            num_images = config.train.micro_batch or config.train.batch_size
            self._try(config, norm, _trial_device(config, norm, num_images), num_images)
        else:
            norm = watched(norm, config.norm)
        if config.norm.code is not None or config.model.code is not None:
            self._try(config, norm, config.device, min(config.train.batch_size, _TRIED_IMAGES))

    def _try(self, config: RunConfig, norm: AnyNormFactory, device: str, num_images: int) -> None:
        """Build the model on `device` and push a batch through it."""
        shape = image_shape(config.dataset)
        with torch.random.fork_rng(devices=[]), torch.device(device):
            model = _build(config, norm).to(memory_format=torch.channels_last)
            images = torch.zeros(num_images, 3, shape.image_size, shape.image_size)
            if config.norm.code is not None or config.model.code is not None:
                images.normal_()
            images = images.to(memory_format=torch.channels_last)
        where = f"{config.model.name} at batch size {config.train.batch_size}"
        is_small = device == "cpu" and config.norm.code is None and config.model.code is None
        arithmetic = autocast("cuda", _precision(config)) if device == "cuda" else nullcontext()
        with arithmetic, _ConvolutionsOfOneImage() if is_small else nullcontext():
            logits = try_model(model, images, f"{config.norm.name} does not work in {where}")
        if config.model.code is not None and logits is not None:
            check_logits(logits, config.model, num_images, shape.num_classes)

    def check_data(self, config: RunConfig, data_dir: Path | None, prerequisite: Path | None) -> None:
        """Load the data set and move it to the device, where it stays for the run."""
        images_of(config, data_dir)

    def load_run(self, config: RunConfig, data_dir: Path | None, prerequisite: Path | None) -> LoadedRun:
        """Return the run's trainer on its images."""
        train_images, test_images, dataset = images_of(config, data_dir)
        sha256 = dataset.sha256  # which takes a moment, before the clock of the run's start runs
        trainer = build_trainer(config, train_images, test_images)
        facts = {
            "precision": config.train.precision,
            "engine": config.train.engine,
            "memory_format": "channels_last",
            "dataset": dataset.name,
            "dataset_source": dataset.source,
            "dataset_sha256": sha256,
            "eval_split": dataset.eval_split,
            "is_synthetic": dataset.is_synthetic,
        }

        def evaluate(wanted: EvaluateConfig, average: WeightAverage) -> Evaluation:
            from normbench.worker.evaluating import evaluate_model  # which imports this module

            return evaluate_model(
                config, trainer.model, average, (train_images, test_images, dataset), wanted, data_dir
            )

        def measure_probe(done: TrainingDone, folder: Path) -> TrainingDone:
            if config.probe != "batch_one":
                return done
            accuracy = batch_statistics_accuracy(trainer.model, test_images, config.device, _precision(config))
            return TrainingDone(done.summary.model_copy(update={"batch_statistics_accuracy": accuracy}))

        return LoadedRun(trainer, facts, measure_probe, evaluate=None if config.probe else evaluate)

    def load_model(self, config: RunConfig, folder: Path) -> nn.Module:
        """Return the network whose weights the run kept in its checkpoint.

        Raises:
            RunError: the run kept no checkpoint.
            CheckpointError: the checkpoint cannot be read.
        """
        checkpoint = folder / CHECKPOINT_FILE
        if not checkpoint.is_file():
            raise RunError(f"{folder}: the run kept no checkpoint; keep_checkpoint=True (--keep-checkpoint) keeps it")
        model = build_run_model(config)
        load_checkpoint(checkpoint, config.run_id, lambda state: model.load_state_dict(state["model"]))
        return model

    def load_timed(
        self, config: RunConfig, data_dir: Path | None, prerequisite: Path | None
    ) -> tuple[ClassifierTraining, float]:
        """Return a training on whole batches that leaves the weights as they are, and the steps of a real epoch."""
        train = config.train.model_copy(update={"epochs": 1, "learning_rate": STILL})
        images, test_images, _ = images_of(config, data_dir)
        # No short last batch, which would need a graph of its own.
        whole = images.first(max(1, len(images) // train.batch_size) * train.batch_size)
        training = build_training(config.model_copy(update={"train": train}), whole, test_images)
        return training, len(images) / training.step.batch_size_of(0)


CLASSIFICATION = Classification()


class _ConvolutionsOfOneImage(TorchFunctionMode):
    """Convolves the first image of a batch and repeats the result: the same shapes without most of a network's time."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), settings: Mapping[str, Any] | None = None
    ) -> Any:
        """Call `function`, with one image if it is a convolution."""
        settings = settings or {}
        if function is not torch.conv2d:
            return function(*arguments, **settings)
        images, *others = arguments
        first: Tensor = function(images[:1], *others, **settings)
        return first.expand(len(images), -1, -1, -1).contiguous(memory_format=torch.channels_last)


def _trial_device(config: RunConfig, norm: AnyNormFactory, num_images: int) -> str:
    """Return where a network that is all NormBench's own is tried fastest."""
    if config.device == "cuda":
        return "cuda"
    if num_images > _MAX_IMAGES_IN_MEMORY or "torch._dynamo" in sys.modules:
        return "meta"
    with torch.device("meta"):
        num_parameters = sum(parameter.numel() for parameter in _build(config, norm).parameters())
    return "cpu" if num_parameters <= _MAX_PARAMETERS_IN_MEMORY else "meta"


def build_run_model(config: RunConfig) -> nn.Module:
    """Build the run's model on the CPU, initialised from its seed.

    Norms start from constants, so layers that two norms share start equal.
    """
    norm = norm_factory(config.norm, model_entry(config.model).family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed_of("initialization"), "initialization"))
        return _build(config, norm)


def _build(config: RunConfig, norm: AnyNormFactory) -> nn.Module:
    """Build the run's model with `norm` for the images of the run."""
    shape = image_shape(config.dataset)
    return build_model(
        model_entry(config.model), norm=norm, num_classes=shape.num_classes, image_size=shape.image_size,
        **config.model.options,
    )  # fmt: skip


def build_training(config: RunConfig, train_images: DeviceImages, test_images: DeviceImages) -> ClassifierTraining:
    """Return the run's training on these images; its arithmetic is set."""
    engine = config.train.engine
    assert engine != "auto"
    set_arithmetic(_precision(config), config.device, reproducible=config.train.reproducible)
    if config.norm.code is not None or config.model.code is not None:
        torch.manual_seed(derive_seed(config.seed, "layers"))  # what draws random numbers draws those of its run
    model = build_run_model(config)
    for layer in model.modules():
        if isinstance(layer, Whitening):
            layer.fit(normalize(train_images.first(_WHITENED_IMAGES).images.cpu()))
    return ClassifierTraining(
        model,
        train_images,
        test_images,
        config.train,
        seed=config.seed_of("order"),
        augmentation_seed=config.seed_of("augmentation"),
        device=config.device,
        precision=_precision(config),
        engine=engine,
    )


def build_trainer(config: RunConfig, train_images: DeviceImages, test_images: DeviceImages) -> Trainer:
    """Return the run's trainer, ready to run or to load a checkpoint."""
    build = partial(build_training, config, train_images, test_images)
    return Trainer(build, config.device, probes=build_probes(config.probes))


def load_images(
    name: str,
    options: Mapping[str, Value],
    data_dir: Path | None,
    device: DeviceName,
    file: ImageFile | None = None,
) -> tuple[DeviceImages, DeviceImages, ImageDataset]:
    """Return the training and test images on the device; the last ones asked for stay there for the next run."""
    return _move(name, tuple(sorted(options.items(), key=lambda item: item[0])), data_dir, device, file)


def images_of(config: RunConfig, data_dir: Path | None) -> tuple[DeviceImages, DeviceImages, ImageDataset]:
    """Return training and test images of a run on its device, and the data set."""
    dataset = config.dataset
    return load_images(dataset.name, dataset.options, data_dir, config.device, dataset.images)


@lru_cache(maxsize=1)
def _load(
    name: str, options: tuple[tuple[str, Value], ...], data_dir: Path | None, file: ImageFile | None
) -> ImageDataset:
    if file is not None:
        return load_own_images(file, name, **dict(options))  # type: ignore[arg-type]
    return load_dataset(name, data_dir=data_dir, **dict(options))


@lru_cache(maxsize=1)
def _move(
    name: str,
    options: tuple[tuple[str, Value], ...],
    data_dir: Path | None,
    device: DeviceName,
    file: ImageFile | None,
) -> tuple[DeviceImages, DeviceImages, ImageDataset]:
    dataset = _load(name, options, data_dir, file)
    target = torch.device(device)
    return (
        DeviceImages(dataset.x_train, dataset.y_train, target, channels_last=True),
        DeviceImages(dataset.x_test, dataset.y_test, target, channels_last=True),
        dataset,
    )


def _precision(config: RunConfig) -> Precision:
    """Return the precision of a run's config, in which nothing is left to decide."""
    assert config.train.precision != "auto"
    return config.train.precision
