"""Timing training steps: every norm in every variant, in turn, in one process."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from normbench.bench.breakdown import profile_steps
from normbench.bench.cases import Case, EngineCase, Images, TutorialCase
from normbench.bench.failures import reason
from normbench.bench.results import TUTORIAL, Breakdown, TrainRow, with_ratios
from normbench.config import RunConfig
from normbench.engine.device import DeviceName, synchronize
from normbench.engine.timing import InterleavedTimer, StepTimes, round_order
from normbench.errors import ConfigError, DivergedError
from normbench.experiment.build import load_images


@dataclass(frozen=True)
class TrainBenchSettings:
    """How thoroughly to measure."""

    rounds: int
    block_seconds: float
    num_epochs: int
    """Whole epochs to time of each case; 0 for none."""


@dataclass
class _Measured:
    """One case and what is known of it so far."""

    norm: str
    variant: str
    config: RunConfig
    case: Case
    steps_per_epoch: int
    is_started: bool = False
    failure: str | None = None
    note: str | None = None
    epoch_seconds: list[float] = field(default_factory=list)
    breakdown: Breakdown | None = None

    def attempt(self, act: Callable[[], object]) -> bool:
        """Do something that may fail, which ends this case and no other; return whether it went well."""
        if self.failure is not None:
            return False
        try:
            act()
        except DivergedError as error:  # of an epoch: the steps can be timed all the same
            self.note = f"no epoch time: {error}"
            return False
        except Exception as error:
            self.failure = reason(error)
            return False
        return True


class TrainBench:
    """Measures `runs`, ``(variant, config)`` each, grouped by batch size; `rows` can be read at any time.

    Args:
        runs: `variant` is ``tutorial`` for the tutorial's loop; all others differ in their config alone.
        data_dir: where to look for CIFAR-10.
        settings: how thoroughly to measure.
        tell: takes a line of progress.
    """

    def __init__(
        self,
        runs: Sequence[tuple[str, RunConfig]],
        data_dir: Path | None,
        settings: TrainBenchSettings,
        tell: Callable[[str], object],
    ) -> None:
        self._runs = runs
        self._data_dir = data_dir
        self._settings = settings
        self._tell = tell
        self._done: list[TrainRow] = []
        self._current: list[_Measured] = []
        self._timer: InterleavedTimer[int] | None = None

    @property
    def rows(self) -> tuple[TrainRow, ...]:
        """What is measured so far."""
        return with_ratios([*self._done, *self._current_rows()])

    def load_images(self) -> dict[str, Any]:
        """Load the data set onto the device, and return what is measured on and how, in plain data.

        Raises:
            DataError: the data set is missing or damaged.
            ConfigError: it does not fill a batch.
        """
        config = self._runs[0][1]
        images = Images(*load_images(config.dataset.name, config.dataset.options, self._data_dir, config.device))
        largest = max(config.train.batch_size for _, config in self._runs)
        if largest > len(images.train):
            raise ConfigError(f"--batch-sizes: {largest} is more than the {len(images.train)} training images")
        self._images = images
        not_shared = {"batch_size", "epochs", "engine", "precision"}
        return {
            "model": config.model.name,
            "train": config.train.model_dump(exclude=not_shared),
            "dataset": images.dataset.name,
            "dataset_source": images.dataset.source,
            "num_train": len(images.train),
            **asdict(self._settings),
        }

    def run(self) -> None:
        """Measure everything, after `load_images`; a case that fails is a row with its reason."""
        images = self._images
        _wake(self._runs[0][1].device)
        for batch_size in dict.fromkeys(config.train.batch_size for _, config in self._runs):
            chosen = [(variant, config) for variant, config in self._runs if config.train.batch_size == batch_size]
            self._current = [self._prepare(variant, config, images) for variant, config in chosen]
            self._measure(batch_size)
            self._done += self._current_rows()
            self._current, self._timer = [], None
            gc.collect()  # the next batch size needs the memory

    def _prepare(self, variant: str, config: RunConfig, images: Images) -> _Measured:
        case: Case
        if variant == TUTORIAL:
            case = TutorialCase(config, images)
        else:
            case = EngineCase(config, images, self._settings.num_epochs)
        steps_per_epoch = -(-len(images.train) // config.train.batch_size)
        return _Measured(config.norm.name, variant, config, case, steps_per_epoch)

    def _measure(self, batch_size: int) -> None:
        for measured in self._current:
            self._tell(f"batch {batch_size}: starting {measured.norm}, {measured.variant}")
            gc.collect()
            measured.is_started = measured.attempt(measured.case.start)
        labels = [index for index, measured in enumerate(self._current) if measured.is_started]
        for number in range(self._settings.num_epochs):
            self._tell(f"batch {batch_size}: epoch {number + 1} of {self._settings.num_epochs}")
            for label in round_order(labels, number):
                self._time_epoch(self._current[label])
        self._timer = InterleavedTimer(
            {label: self._steps_of(self._current[label]) for label in labels},
            synchronize=lambda: synchronize(self._current[0].config.device),
            block_seconds=self._settings.block_seconds,
        )
        self._tell(f"batch {batch_size}: {self._settings.rounds} rounds over {len(labels)} cases")
        for _ in self._timer.rounds(self._settings.rounds):
            pass
        for label in labels:
            self._break_down(self._current[label])

    def _time_epoch(self, measured: _Measured) -> None:
        measured.attempt(lambda: measured.epoch_seconds.append(measured.case.epoch()))

    def _steps_of(self, measured: _Measured) -> Callable[[int], object]:
        return lambda steps: measured.attempt(lambda: measured.case.run(steps))

    def _break_down(self, measured: _Measured) -> None:
        config, case = measured.config, measured.case
        if config.device != "cpu" or config.train.engine != "eager" or isinstance(case, TutorialCase):
            return

        def profile() -> None:
            measured.breakdown = profile_steps(case.model, lambda: case.run(1))

        measured.attempt(profile)

    def _current_rows(self) -> list[TrainRow]:
        times = {} if self._timer is None else self._timer.times()
        return [_row(measured, times.get(index)) for index, measured in enumerate(self._current)]


def _row(measured: _Measured, times: StepTimes | None) -> TrainRow:
    train = measured.config.train
    if measured.failure is not None:
        times = None  # after a failure its blocks were empty
    is_started = measured.is_started
    return TrainRow(
        norm=measured.norm,
        variant=measured.variant,
        batch_size=train.batch_size,
        engine="loop" if measured.variant == TUTORIAL else train.engine,
        precision=train.precision,
        steps_per_epoch=measured.steps_per_epoch,
        failure=measured.failure,
        note=measured.note or (measured.case.note if is_started else None),
        startup_seconds=measured.case.startup_seconds if is_started else None,
        peak_memory_mib=measured.case.peak_memory_mib if is_started else None,
        steps_per_block=times.steps_per_block if times else None,
        seconds_per_step=times.seconds_per_step if times else (),
        epoch_seconds=tuple(measured.epoch_seconds),
        breakdown=measured.breakdown,
    )


def _wake(device: DeviceName) -> None:
    """Load the libraries that the first convolution loads, so that no case's startup has to."""
    images = torch.zeros(2, 3, 8, 8, device=device, requires_grad=True)
    functional.conv2d(images, torch.zeros(4, 3, 3, 3, device=device)).sum().backward()
    synchronize(device)
