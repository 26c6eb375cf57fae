"""Training steps, timed: every norm in every variant, in turn, in one process."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from normbench.bench.breakdown import profile_steps
from normbench.bench.cases import Case, CompanyCase, Images, TrainerCase, TutorialCase
from normbench.bench.results import TUTORIAL, Breakdown, TrainRow, failure_of, with_ratios
from normbench.config.schema import RunConfig
from normbench.engine.device import DeviceName, synchronize
from normbench.engine.interleaved_timer import InterleavedTimer, StepTimes, round_order
from normbench.errors import ConfigError, DivergedError
from normbench.layers.norm_act import describe_paths
from normbench.worker.classifiers import load_images

_LEAD_STEPS = 2
"""Steps before each block on a CPU: the tutorial's loop and ours have the C library keep freed memory differently, and
the first steps after a change pay for it."""


@dataclass(frozen=True)
class TrainBenchSettings:
    """Settings of a benchmark of training steps."""

    rounds: int
    block_seconds: float
    num_epochs: int
    """Whole epochs to time of each case; 0 times none."""
    runs_at_once: tuple[int, ...] = (1,)
    """How many trainings of a case run at once: each of these numbers is a case; the tutorial's loop runs alone."""


@dataclass
class _Measured:
    """One case with its measurements so far; an error ends this case, with its reason, and no other."""

    variant: str
    config: RunConfig
    case: Case | None
    """The training itself; None once it has failed, so that its memory is free."""
    steps_per_epoch: int
    runs_at_once: int = 1
    failure: str | None = None
    note: str | None = None
    norm_path: str | None = None
    startup_seconds: float | None = None
    peak_memory_mib: float | None = None
    epoch_seconds: list[float] = field(default_factory=list)
    has_diverged: bool = False
    breakdown: Breakdown | None = None

    @property
    def at_once(self) -> str:
        """How many trainings run at once, in words, if there are several."""
        return f", {self.runs_at_once} at once" if self.runs_at_once > 1 else ""

    def start(self) -> None:
        """Build the case and train its first step."""
        with self._catching():
            if self.case is not None:
                self.case.start()
                self.startup_seconds, self.peak_memory_mib = self.case.startup_seconds, self.case.peak_memory_mib
                self.note = self.case.note
                if self.variant != TUTORIAL and self.config.norm.name != "none":
                    self.norm_path = describe_paths(self.case.model)

    def epoch(self) -> None:
        """Time a whole epoch; one that diverges has no time, and the steps can be timed all the same."""
        if self.case is None or self.has_diverged or self.runs_at_once > 1:
            return
        with self._catching():
            try:
                self.epoch_seconds.append(self.case.epoch())
            except DivergedError as error:
                self.has_diverged = True
                self.note = f"no epoch time: {error}"

    def run(self, steps: int) -> None:
        """Train on that many batches."""
        with self._catching():
            if self.case is not None:
                self.case.run(steps)

    def break_down(self) -> None:
        """Measure the shares of an eager step's parts in its time, on a CPU."""
        case, config = self.case, self.config
        if config.device != "cpu" or config.train.engine != "eager" or self.variant == TUTORIAL or case is None:
            return
        if self.runs_at_once > 1:
            return
        try:
            self.breakdown = profile_steps(case.model, lambda: case.run(1))
        except Exception as error:  # the times stand
            self.note = f"no breakdown: {failure_of(error)}"

    @contextmanager
    def _catching(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.failure = failure_of(error)
            self.case = None

    def row(self, times: StepTimes | None) -> TrainRow:
        """Return the measurements so far; the blocks after a failure were empty, so that their `times` say nothing."""
        train = self.config.train
        timed = times if self.failure is None else None
        return TrainRow(
            norm=self.config.norm.name,
            variant=self.variant,
            batch_size=train.batch_size,
            engine="loop" if self.variant == TUTORIAL else train.engine,
            precision=train.precision,
            steps_per_epoch=self.steps_per_epoch,
            failure=self.failure,
            note=self.note,
            norm_path=self.norm_path,
            startup_seconds=self.startup_seconds,
            peak_memory_mib=self.peak_memory_mib,
            steps_per_block=timed.steps_per_block if timed else None,
            seconds_per_step=tuple(seconds / self.runs_at_once for seconds in timed.seconds_per_step) if timed else (),
            runs_at_once=self.runs_at_once,
            epoch_seconds=tuple(self.epoch_seconds),
            breakdown=self.breakdown,
        )


class TrainBench:
    """A benchmark of training steps: times `runs` by batch size; `rows` can be read at any time.

    Args:
        runs: ``(variant, config)`` each; ``tutorial`` is the tutorial's loop, all others differ in their config alone.
        data_dir: where to look for CIFAR-10.
        settings: how many rounds and epochs, and how long a block is.
        on_progress: takes a line of progress.
    """

    def __init__(
        self,
        runs: Sequence[tuple[str, RunConfig]],
        data_dir: Path | None,
        settings: TrainBenchSettings,
        on_progress: Callable[[str], object],
    ) -> None:
        self._runs = runs
        self._data_dir = data_dir
        self._settings = settings
        self._on_progress = on_progress
        self._done: list[TrainRow] = []
        self._current: list[_Measured] = []
        self._timer: InterleavedTimer[int] | None = None

    @property
    def rows(self) -> tuple[TrainRow, ...]:
        """The rows measured so far."""
        return with_ratios([*self._done, *self._current_rows()])

    def load_images(self) -> dict[str, Any]:
        """Load the data set onto the device, and return model, training, data and settings as plain data.

        Raises:
            DataError: the data set is missing or damaged.
            ConfigError: it does not fill a batch.
        """
        config = self._runs[0][1]
        dataset = config.dataset
        images = Images(*load_images(dataset.name, dataset.options, self._data_dir, config.device, dataset.images))
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
        _load_libraries(self._runs[0][1].device)
        for batch_size in dict.fromkeys(config.train.batch_size for _, config in self._runs):
            chosen = [(variant, config) for variant, config in self._runs if config.train.batch_size == batch_size]
            self._current = [
                self._prepare(variant, config, images, count)
                for variant, config in chosen
                for count in ((1,) if variant == TUTORIAL else self._settings.runs_at_once)
            ]
            self._measure(batch_size)
            self._done += self._current_rows()
            self._current, self._timer = [], None
            gc.collect()  # the next batch size needs the memory

    def _prepare(self, variant: str, config: RunConfig, images: Images, count: int) -> _Measured:
        case: Case
        if variant == TUTORIAL:
            case = TutorialCase(config, images)
        elif count > 1:
            case = CompanyCase(config, images, count)
        else:
            case = TrainerCase(config, images, self._settings.num_epochs)
        return _Measured(variant, config, case, -(-len(images.train) // config.train.batch_size), count)

    def _measure(self, batch_size: int) -> None:
        settings, cases = self._settings, self._current
        for measured in cases:
            self._on_progress(
                f"batch {batch_size}: starting {measured.config.norm.name}, {measured.variant}{measured.at_once}"
            )
            measured.start()
            if measured.failure is not None:
                gc.collect()  # the others may need its memory
        started = {index: measured for index, measured in enumerate(cases) if measured.failure is None}
        for number in range(settings.num_epochs):
            self._on_progress(f"batch {batch_size}: epoch {number + 1} of {settings.num_epochs}")
            for index in round_order(list(started), number):
                started[index].epoch()
        self._on_progress(f"batch {batch_size}: {settings.rounds} rounds over {len(started)} cases")
        self._timer = InterleavedTimer(
            {index: measured.run for index, measured in started.items()},
            synchronize=lambda: synchronize(cases[0].config.device),
            block_seconds=settings.block_seconds,
            lead_steps=_LEAD_STEPS if cases[0].config.device == "cpu" else 0,
        )
        for _ in self._timer.rounds(settings.rounds):
            pass
        for measured in started.values():
            measured.break_down()

    def _current_rows(self) -> list[TrainRow]:
        times = {} if self._timer is None else self._timer.times()
        return [measured.row(times.get(index)) for index, measured in enumerate(self._current)]


def _load_libraries(device: DeviceName) -> None:
    """Run a convolution, whose libraries would otherwise count as the first case's startup."""
    images = torch.zeros(2, 3, 8, 8, device=device, requires_grad=True)
    functional.conv2d(images, torch.zeros(4, 3, 3, 3, device=device)).sum().backward()
    synchronize(device)
