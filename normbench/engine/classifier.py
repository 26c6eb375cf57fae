"""The training of a classifier: cross-entropy on shuffled epochs, evaluated after each."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import nn

from normbench.config.schema import TrainConfig
from normbench.engine.augment import CropFlip, draw_augmentation
from normbench.engine.batches import DeviceImages, epoch_order
from normbench.engine.device import DeviceName, Engine, Precision
from normbench.engine.evaluate import PendingEvaluation, RepeatedEvaluation
from normbench.engine.schedule import learning_rates
from normbench.engine.step.build import build_step
from normbench.engine.step.objective import CrossEntropy
from normbench.engine.step.state import StepSettings
from normbench.engine.trainer import Totals
from normbench.runs.events import TrainingDone
from normbench.tasks.classification import Summary
from normbench.tasks.task import EpochRow


class ClassifierTraining:
    """Trains `model` on one split and evaluates it on another; both splits are on the device already."""

    def __init__(
        self,
        model: nn.Module,
        train_images: DeviceImages,
        test_images: DeviceImages,
        config: TrainConfig,
        *,
        seed: int,
        augmentation_seed: int | None = None,
        device: DeviceName,
        precision: Precision,
        engine: Engine,
    ) -> None:
        self.num_epochs = config.epochs
        self._seed = seed
        self._augment = config.augment
        self._augmentation_seed = seed if augmentation_seed is None else augmentation_seed
        self._test_images = test_images
        num_steps = config.epochs * -(-len(train_images) // config.batch_size)
        rates = learning_rates(config.schedule, config.learning_rate, num_steps, config.warmup_fraction)
        settings = StepSettings(
            batch_size=config.batch_size,
            num_images=len(train_images),
            num_epochs=config.epochs,
            learning_rates=rates,
            augment=config.augment != "none",
            device=device,
            precision=precision,
            engine=engine,
            micro_batch=config.micro_batch,
            sync_statistics=config.sync_statistics,
        )
        model = model.to(device=torch.device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.step = build_step(model, CrossEntropy(config.label_smoothing), train_images, config, settings)
        self._evaluation = RepeatedEvaluation(model, test_images, device, precision)

    def draw_epoch(self, epoch: int) -> tuple[torch.Tensor, CropFlip | None]:
        """Return the order of the images, and how each is cropped and flipped."""
        settings = self.step.settings
        drawn = draw_augmentation(self._augment, settings.num_images, self._augmentation_seed, epoch)
        return epoch_order(settings.num_images, self._seed, epoch), drawn

    def warm_up(self) -> None:
        """Evaluate one batch on CUDA, where cuDNN chooses algorithms for its shapes the first time in a process."""
        if self.step.settings.device == "cuda":
            self._evaluation.warm_up()

    def capture_evaluation(self) -> None:
        """Capture the evaluation of whole batches, where steps are captured."""
        if self.step.graphs:
            self._evaluation.capture_in_memory_of(next(iter(self.step.graphs.values())))

    def launch_evaluation(self) -> PendingEvaluation:
        """Start to evaluate on the test images."""
        return self._evaluation.launch(self._test_images)

    def summarize(self, totals: Totals, rows: Sequence[EpochRow], losses: Sequence[tuple[float, ...]]) -> TrainingDone:
        """Return the numbers of the last epoch, and what training took."""
        last = rows[-1]
        summary = Summary(
            test_accuracy=last.test_accuracy,
            test_loss=last.test_loss,
            train_accuracy=last.train_accuracy,
            train_loss=last.train_loss,
            num_epochs=last.epoch,
            epoch_seconds=statistics.median(row.train_seconds for row in rows),
            **asdict(totals),
        )
        return TrainingDone(summary)

    def name_step(self, epoch: int, step: int) -> str:
        """Return how a message names a step, both counted from where the log counts them."""
        return f"epoch {epoch + 1}, step {step} of {self.step.settings.steps_per_epoch}"

    def rate_of(self, step: int) -> float:
        """Return the scheduled rate."""
        rates = self.step.settings.learning_rates
        assert rates is not None
        return rates[step].item()
