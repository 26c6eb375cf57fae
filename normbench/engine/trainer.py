"""The training loop: a generator of what happened, which its caller records, shows, or stops."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from normbench.config.schema import TrainConfig
from normbench.engine.augment import draw_crop_flip
from normbench.engine.batches import DeviceImages, epoch_order
from normbench.engine.device import DeviceName, Engine, Precision, synchronize
from normbench.engine.evaluate import evaluate
from normbench.engine.flat_optimizer import FlatOptimizer
from normbench.engine.memory import MemoryMeter, keep_freed_memory, return_freed_memory
from normbench.engine.optimizer import Optimizer, build_optimizer, load_optimizer_state, parameter_groups
from normbench.engine.schedule import learning_rates
from normbench.engine.step.state import StepSettings, StepState
from normbench.engine.step.train_step import TrainStep
from normbench.errors import DivergedError
from normbench.kernels.support import unsupported_device_reason
from normbench.runs.events import EpochDone, StepsDone, TrainingDone, TrainingEvent
from normbench.tasks.classification import Summary
from normbench.tasks.task import EpochRow

STEPS_BETWEEN_LINES = 100
"""A report at least every 100 steps, as the tutorial prints its loss."""
_SECONDS_BETWEEN_REPORTS = 0.5


class Trainer:
    """Trains one model; `run` yields events, `state_dict` and `load_state_dict` interrupt and continue it exactly.

    Order and augmentation are keyed by (seed, epoch), so that a resumed training draws what an uninterrupted one draws.
    """

    def __init__(
        self,
        model: nn.Module,
        train_images: DeviceImages,
        test_images: DeviceImages,
        config: TrainConfig,
        *,
        seed: int,
        device: DeviceName,
        precision: Precision,
        engine: Engine,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._started = clock()
        self._clock = clock
        self._memory = MemoryMeter(device)
        if device == "cpu":
            keep_freed_memory()
        self._config = config
        self._seed = seed
        self._device: DeviceName = device
        self._precision: Precision = precision
        self.model = model.to(device=torch.device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.test_images = test_images
        steps_per_epoch = -(-len(train_images) // config.batch_size)
        rates = learning_rates(
            config.schedule, config.learning_rate, config.epochs * steps_per_epoch, config.warmup_fraction
        )
        self._learning_rates = rates.tolist()
        settings = StepSettings(
            batch_size=config.batch_size,
            learning_rates=rates,
            label_smoothing=config.label_smoothing,
            augment=config.augment == "crop_flip",
            device=device,
            precision=precision,
            engine=engine,
        )
        state = StepState(len(train_images), steps_per_epoch, settings, train_images.labels.device)
        self._optimizer: Optimizer
        if engine == "graph" and unsupported_device_reason(train_images.labels.device) is None:
            self._optimizer = FlatOptimizer(
                parameter_groups(self.model, config), config, state.learning_rates, state.global_step
            )
        else:
            self._optimizer = build_optimizer(self.model, config, capturable=device == "cuda" and engine != "eager")
        self.step = TrainStep(self.model, self._optimizer, train_images, settings, state)
        # Where training stands; all of it goes into a checkpoint.
        self._rows: list[EpochRow] = []
        self._losses: list[float] = []
        self._step_in_epoch = 0
        self._num_correct = 0
        self._epoch_loss_sum = 0.0
        self._epoch_seconds = 0.0

    @property
    def rows(self) -> tuple[EpochRow, ...]:
        """The epochs done."""
        return tuple(self._rows)

    @property
    def losses(self) -> tuple[float, ...]:
        """The losses of all steps done, in nats."""
        return tuple(self._losses)

    def run(self) -> Iterator[TrainingEvent]:
        """Train to the end, yielding events; the clock of `train_seconds` stands still while the caller handles them.

        Raises:
            DivergedError: a loss is not finite; the steps up to it were yielded.
        """
        self.step.prepare()
        startup_seconds = self._clock() - self._started
        while len(self._rows) < self._config.epochs:
            yield from self._train_epoch()
            yield EpochDone(self._finish_epoch())
        yield TrainingDone(self._summarize(startup_seconds))

    def _train_epoch(self) -> Iterator[StepsDone]:
        epoch = len(self._rows)
        num_images, num_steps = self.step.num_images, self.step.steps_per_epoch
        augment = self._config.augment == "crop_flip"
        began = self._clock()
        self.step.start_epoch(
            epoch_order(num_images, self._seed, epoch),
            draw_crop_flip(num_images, self._seed, epoch) if augment else None,
            global_step=len(self._losses),
            step_in_epoch=self._step_in_epoch,
            num_correct=self._num_correct,
        )
        while self._step_in_epoch < num_steps:
            first = stop = self._step_in_epoch
            while stop < num_steps:
                self.step(stop)
                stop += 1
                if stop % STEPS_BETWEEN_LINES == 1 or self._clock() - began > _SECONDS_BETWEEN_REPORTS:
                    break
            losses = self.step.losses(first, stop)  # waits for the device
            self._num_correct = self.step.num_correct()
            seconds = self._clock() - began
            self._epoch_seconds += seconds
            images = [self.step.batch_size_of(step) for step in range(first, stop)]
            self._epoch_loss_sum += sum(loss * count for loss, count in zip(losses, images, strict=True))
            self._losses += losses
            self._step_in_epoch = stop
            diverged = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
            seen = min(stop * self._config.batch_size, num_images)
            yield StepsDone(
                epoch=epoch + 1,
                first_step=first,
                losses=tuple((loss,) for loss in (losses if diverged is None else losses[: diverged + 1])),
                steps_per_epoch=num_steps,
                train_accuracy=self._num_correct / seen,
                images_per_second=sum(images) / seconds,
            )
            if diverged is not None:
                step = first + diverged
                raise DivergedError(f"loss is {losses[diverged]} at epoch {epoch + 1}, step {step} of {num_steps}")
            began = self._clock()

    def _finish_epoch(self) -> EpochRow:
        began = self._clock()
        if self._device == "cpu":
            return_freed_memory()  # the evaluation's larger batches do not fit into it: the process would hold both
        test_loss, test_accuracy = evaluate(self.model, self.test_images, self._device, self._precision)
        if self._device == "cpu":
            keep_freed_memory()
        synchronize(self._device)
        num_images = self.step.num_images
        num_steps = (len(self._rows) + 1) * self.step.steps_per_epoch
        row = EpochRow(
            epoch=len(self._rows) + 1,
            num_steps=num_steps,
            train_loss=self._epoch_loss_sum / num_images,
            train_accuracy=self._num_correct / num_images,
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            train_seconds=self._epoch_seconds,
            test_seconds=self._clock() - began,
            learning_rate=self._learning_rates[num_steps - 1],
        )
        self._rows.append(row)
        self._step_in_epoch, self._num_correct = 0, 0
        self._epoch_loss_sum, self._epoch_seconds = 0.0, 0.0
        return row

    def _summarize(self, startup_seconds: float) -> Summary:
        last = self._rows[-1]
        train_seconds = sum(row.train_seconds for row in self._rows)
        return Summary(
            test_accuracy=last.test_accuracy,
            test_loss=last.test_loss,
            train_accuracy=last.train_accuracy,
            train_loss=last.train_loss,
            num_epochs=last.epoch,
            num_steps=last.num_steps,
            num_parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            train_seconds=train_seconds,
            epoch_seconds=statistics.median(row.train_seconds for row in self._rows),
            startup_seconds=startup_seconds,
            peak_memory_mib=self._memory.peak_mib(),
            images_per_second=self.step.num_images * len(self._rows) / train_seconds,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs to go on from here: tensors, numbers, lists and dicts only."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "rows": [row.model_dump() for row in self._rows],
            "losses": torch.tensor(self._losses),
            "step_in_epoch": self._step_in_epoch,
            "num_correct": self._num_correct,
            "epoch_loss_sum": self._epoch_loss_sum,
            "epoch_seconds": self._epoch_seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; call before `run`."""
        self.model.load_state_dict(state["model"])
        load_optimizer_state(self._optimizer, state["optimizer"])
        self._rows = [EpochRow.model_validate(row) for row in state["rows"]]
        self._losses = state["losses"].tolist()
        self._step_in_epoch = state["step_in_epoch"]
        self._num_correct = state["num_correct"]
        self._epoch_loss_sum = state["epoch_loss_sum"]
        self._epoch_seconds = state["epoch_seconds"]
