"""One norm in one variant of training: built, warmed up, and ready to run any number of steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from normbench.bench.tutorial_loop import PilImages, TutorialLoop, with_plain_layers
from normbench.config.schema import RunConfig
from normbench.data.images import ImageDataset
from normbench.engine.augment import draw_augmentation
from normbench.engine.batches import DeviceImages, epoch_order
from normbench.engine.device import DeviceName, set_arithmetic, set_default_arithmetic, synchronize
from normbench.engine.memory import MemoryMeter, keep_freed_memory, return_freed_memory
from normbench.errors import NormBenchError
from normbench.runs.events import EpochDone, StepsDone, TrainingEvent
from normbench.worker.classifiers import build_run_model, build_trainer

_STEPS_PER_TURN = 5
_EPOCHS_OF_STEPS = 20
"""Epochs of the schedule that are left to single steps, beside the whole epochs that are timed."""


@dataclass(frozen=True)
class Images:
    """The data set in the forms that the variants take: on the device, and as arrays."""

    train: DeviceImages
    test: DeviceImages
    dataset: ImageDataset


class Case(Protocol):
    """A training that can be timed; `start` comes first, then `epoch` any number of times, then `run`."""

    model: nn.Module
    startup_seconds: float
    peak_memory_mib: float | None

    @property
    def note(self) -> str | None:
        """A remark for the reader on how the steps ran, if any."""

    def start(self) -> None:
        """Build and warm up, to the end of the first step."""

    def run(self, steps: int) -> None:
        """Train on `steps` whole batches; may return before the device is done."""

    def epoch(self) -> float:
        """Train one whole epoch and return its seconds."""


class TrainerCase:
    """NormBench's own trainer, as `normbench train` and `compare` run it."""

    def __init__(self, config: RunConfig, images: Images, num_epochs: int) -> None:
        self._config = config.model_copy(
            update={"train": config.train.model_copy(update={"epochs": num_epochs + _EPOCHS_OF_STEPS})}
        )
        self._images = images
        self._device: DeviceName = config.device
        self.startup_seconds = 0.0
        self.peak_memory_mib: float | None = None
        self._position = 0
        self._num_steps = 1

    def start(self) -> None:
        """Build, compile, capture, and train the first step."""
        train = self._config.train
        began = time.perf_counter()
        memory = MemoryMeter(self._device)
        self._trainer = build_trainer(self._config, self._images.train, self._images.test)
        self.model = self._trainer.model
        self._events: Iterator[TrainingEvent] = self._trainer.run()
        while not isinstance(next(self._events), StepsDone):
            pass
        self.startup_seconds = time.perf_counter() - began
        self.peak_memory_mib = memory.peak_mib() if self._device == "cuda" else None
        count, seed = len(self._images.train), self._config.seed
        self._order = epoch_order(count, seed, 0)
        self._crop_flip = draw_augmentation(train.augment, count, seed, 0)
        self._num_whole_batches = count // train.batch_size
        self._position = self._num_whole_batches  # the next step opens an epoch

    @property
    def note(self) -> str | None:
        """The reason why the steps ran eagerly although a graph was asked for, if they did."""
        return self._trainer.step.fallback_reason

    def epoch(self) -> float:
        """Train to the end of the epoch and return `train_seconds`, as a run records it."""
        self._set_flags()
        for event in self._events:
            if isinstance(event, EpochDone):
                self._num_steps = event.row.num_steps
                return event.row.train_seconds
        raise NormBenchError("all epochs are done")

    def run(self, steps: int) -> None:
        """Train on `steps` whole batches, beginning the epoch again where it ends."""
        self._set_flags()
        step = self._trainer.step
        for _ in range(steps):
            if self._position >= self._num_whole_batches:
                self._begin_epoch()
            step(self._position)
            self._position += 1

    def _begin_epoch(self) -> None:
        """Begin an epoch without counting steps anew, which would undo Adam's bias correction and make weights leap."""
        step = self._trainer.step
        num_steps = self._config.train.epochs * step.settings.steps_per_epoch
        if self._num_steps + self._num_whole_batches > num_steps:
            self._num_steps = num_steps // 2
        step.state.start_epoch(self._order, self._crop_flip, global_step=self._num_steps)
        self._num_steps += self._num_whole_batches
        self._position = 0

    def _set_flags(self) -> None:
        train = self._config.train
        assert train.precision != "auto"
        set_arithmetic(train.precision, self._device, reproducible=train.reproducible)
        keep_freed_memory(self._device)


class CompanyCase:
    """Several trainings of one config at once, which differ in their seed, each on a stream of its own.

    A step of it is a step of each of them. Its whole epochs are not timed.
    """

    def __init__(self, config: RunConfig, images: Images, count: int) -> None:
        self._device: DeviceName = config.device
        self._cases = [TrainerCase(config.model_copy(update={"seed": seed}), images, 0) for seed in range(count)]
        self.startup_seconds = 0.0
        self.peak_memory_mib: float | None = None

    def start(self) -> None:
        """Build and capture one after another, and train the first step of each."""
        memory = MemoryMeter(self._device)
        on_cuda = self._device == "cuda"
        self._streams = [torch.cuda.Stream() if on_cuda else None for _ in self._cases]
        for case, stream in zip(self._cases, self._streams, strict=True):
            with torch.cuda.stream(stream):
                case.start()
        self.model = self._cases[0].model
        self.startup_seconds = sum(case.startup_seconds for case in self._cases)
        self.peak_memory_mib = memory.peak_mib() if on_cuda else None

    @property
    def note(self) -> str | None:
        """The reason why steps of one ran eagerly although a graph was asked for, if they did."""
        return next((case.note for case in self._cases if case.note), None)

    def epoch(self) -> float:
        """Refuse: epochs are timed one training at a time."""
        raise NotImplementedError

    def run(self, steps: int) -> None:
        """Train on `steps` whole batches in each, a few at a time, so that all streams have work."""
        for begun in range(0, steps, _STEPS_PER_TURN):
            for case, stream in zip(self._cases, self._streams, strict=True):
                with torch.cuda.stream(stream):
                    case.run(min(_STEPS_PER_TURN, steps - begun))


class TutorialCase:
    """The tutorial's own loop, with the defaults of torch and, on a CPU, of the C library."""

    def __init__(self, config: RunConfig, images: Images) -> None:
        self._config = config
        self._images = images
        self.startup_seconds = 0.0
        self.peak_memory_mib: float | None = None
        self.note: str | None = None

    def start(self) -> None:
        """Build and train the first step."""
        began = time.perf_counter()
        _set_default_flags(self._config.device)
        memory = MemoryMeter(self._config.device)
        dataset = self._images.dataset
        self.model = with_plain_layers(build_run_model(self._config))
        train = self._config.train
        self._loop = TutorialLoop(
            self.model, PilImages(dataset.x_train, dataset.y_train), train.batch_size, self._config.device,
            learning_rate=train.learning_rate, seed=self._config.seed,
        )  # fmt: skip
        self._loop.run(1)
        synchronize(self._config.device)
        self.startup_seconds = time.perf_counter() - began
        if self._config.device == "cuda":
            self._loop.run(2)  # the first step has no optimizer state beside its activations
            self.peak_memory_mib = memory.peak_mib()

    def epoch(self) -> float:
        """Train on every image once and return the seconds that took."""
        _set_default_flags(self._config.device)
        synchronize(self._config.device)
        began = time.perf_counter()
        self._loop.run_epoch()
        synchronize(self._config.device)
        return time.perf_counter() - began

    def run(self, steps: int) -> None:
        """Train on `steps` whole batches."""
        _set_default_flags(self._config.device)
        self._loop.run(steps)


def _set_default_flags(device: DeviceName) -> None:
    """Undo what `TrainerCase` sets."""
    return_freed_memory(device)
    set_default_arithmetic(device)
