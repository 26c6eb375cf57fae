"""Timing the norms of one setting against each other: what happens in the worker process."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from normbench.config.schema import RunConfig
from normbench.engine.augment import CropFlip, draw_crop_flip
from normbench.engine.batches import epoch_order
from normbench.engine.device import DeviceName, synchronize
from normbench.engine.interleaved_timer import InterleavedTimer
from normbench.engine.step.train_step import TrainStep
from normbench.errors import NormBenchError, first_line
from normbench.runs.timing_file import SkippedNorm, TimedNorm
from normbench.worker.build import build_trainer, load_images
from normbench.worker.targets import TimingCandidate, TimingResult, TimingSchedule

_MEMORY_SHARE = 0.8
"""Of the free device memory that norms built at the same time may take by what their runs took."""

_STILL = 1e-12
"""Learning rate while timing: steps cost the same, and no norm can diverge."""


def time_setting(
    wanted: Sequence[TimingCandidate], schedule: TimingSchedule, data_dir: Path | None
) -> Iterator[float | TimingResult]:
    """Time all of `wanted` in turn; yield the share that is done after every build and round, and `TimingResult`.

    All are built before the first is timed. Where the device's memory does not hold them, several parts are timed one
    after another, each with the first of `wanted`, to which the others are compared.
    """
    gc.collect()  # the last run may hold device memory in cycles
    parts = memory_parts([entry.peak_memory_mib for entry in wanted], free_mib(wanted[0].config.device))
    for number, part in enumerate(parts):
        for result in _time_part([_classifier(wanted[index]) for index in part], schedule, data_dir):
            yield (number + result) / len(parts) if isinstance(result, float) else result
        gc.collect()


def free_mib(device: DeviceName) -> float | None:
    """Return the device memory that is free, in MiB; None on a CPU, where steps keep nothing but their parameters."""
    if device != "cuda":
        return None
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0] / 2**20


def memory_parts(peaks_mib: Sequence[float], free: float | None) -> list[list[int]]:
    """Sort norms by position into parts that fit the free memory together, each beginning with the first of all."""
    if free is None:
        return [list(range(len(peaks_mib)))]
    parts, used = [[0]], peaks_mib[0]
    for index, size in enumerate(peaks_mib[1:], 1):
        if used + size > _MEMORY_SHARE * free and len(parts[-1]) > 1:
            parts.append([0])
            used = peaks_mib[0]
        parts[-1].append(index)
        used += size
    return parts


def _classifier(candidate: TimingCandidate) -> RunConfig:
    assert isinstance(candidate.config, RunConfig)
    return candidate.config


def _time_part(
    configs: Sequence[RunConfig], schedule: TimingSchedule, data_dir: Path | None
) -> Iterator[float | TimingResult]:
    device = configs[0].device
    steps: dict[int, _Steps] = {}
    skipped = []
    total = len(configs) + schedule.num_rounds
    for position, config in enumerate(configs):
        try:
            steps[position] = _Steps(config, data_dir)
        except Exception as error:
            skipped.append(SkippedNorm(label=config.label, config=config.timing_fields, reason=first_line(error)))
        yield (position + 1) / total
    timer = InterleavedTimer(
        {position: entry.run for position, entry in steps.items()},
        synchronize=lambda: synchronize(device),
        block_seconds=schedule.block_seconds,
    )
    for num_done in timer.rounds(schedule.num_rounds):
        yield (len(configs) + num_done) / total
    timed = tuple(
        TimedNorm(
            label=configs[position].label,
            config=configs[position].timing_fields,
            seconds_per_step=times.seconds_per_step,
            steps_per_block=times.steps_per_block,
            steps_per_epoch=steps[position].per_epoch,
        )
        for position, times in timer.times().items()
    )
    yield TimingResult(timed, tuple(skipped))


class _Steps:
    """The training steps of one configuration, all on whole batches, ready to run."""

    def __init__(self, config: RunConfig, data_dir: Path | None) -> None:
        train = config.train.model_copy(update={"epochs": 1, "learning_rate": _STILL})
        images, test_images, _ = load_images(config.dataset.name, config.dataset.options, data_dir, config.device)
        # No short last batch, which would need a graph of its own.
        whole = images.first(max(1, len(images) // train.batch_size) * train.batch_size)
        self._step: TrainStep = build_trainer(config.model_copy(update={"train": train}), whole, test_images).step
        self._step.prepare()
        if (reason := self._step.fallback_reason) and "out of memory" in reason:
            raise NormBenchError(reason)
        device = whole.labels.device
        self._order = epoch_order(len(whole), config.seed, 0).to(device)
        self._crop_flip: CropFlip | None = None
        if train.augment == "crop_flip":
            self._crop_flip = CropFlip(*(drawn.to(device) for drawn in draw_crop_flip(len(whole), config.seed, 0)))
        self.per_epoch = len(images) / self._step.batch_size_of(0)
        self._rewind()
        self.run(1)  # what fails, fails here, and not among the others

    def run(self, count: int) -> None:
        """Train on that many batches."""
        for _ in range(count):
            if self._next == self._step.steps_per_epoch:
                self._rewind()
            self._step(self._next)
            self._next += 1

    def _rewind(self) -> None:
        self._step.start_epoch(self._order, self._crop_flip, global_step=0)
        self._next = 0
