"""Timing the steps of one setting's norms against each other, in turn, whatever their task."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from normbench.engine.augment import CropFlip
from normbench.engine.device import DeviceName, synchronize
from normbench.engine.interleaved_timer import InterleavedTimer
from normbench.engine.memory import MemoryMeter, free_memory_mib, keep_freed_memory
from normbench.engine.step.prepare import prepare
from normbench.errors import NormBenchError, first_line
from normbench.runs.timing_file import SkippedNorm, TimedNorm
from normbench.worker.targets import TimingCandidate, TimingResult, TimingSchedule, task_of

_MEMORY_SHARE = 0.8
"""The share of the free device memory that norms built at the same time may take, by what their runs took."""


def time_setting(
    wanted: Sequence[TimingCandidate], schedule: TimingSchedule, data_dir: Path | None
) -> Iterator[float | TimingResult]:
    """Time all of `wanted` in turn; yield the share that is done after every build and round, and `TimingResult`.

    All are built before the first is timed. Where the device's memory does not hold them, several parts are timed one
    after another, each with the first of `wanted`, to which the others are compared.
    """
    device: DeviceName = wanted[0].config.device
    keep_freed_memory(device)
    gc.collect()  # the last run may hold device memory in cycles
    parts = memory_parts([entry.peak_memory_mib for entry in wanted], free_memory_mib(device))
    for number, part in enumerate(parts):
        for result in _time_part([wanted[index] for index in part], schedule, data_dir):
            yield (number + result) / len(parts) if isinstance(result, float) else result
        gc.collect()


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


def _time_part(
    candidates: Sequence[TimingCandidate], schedule: TimingSchedule, data_dir: Path | None
) -> Iterator[float | TimingResult]:
    configs = [candidate.config for candidate in candidates]
    steps: dict[int, _Steps] = {}
    skipped = []
    total = len(configs) + schedule.num_rounds
    with suppress(Exception):  # it loads the images, which no norm is to be charged with
        task_of(configs[0].task).load_timed(configs[0], data_dir, candidates[0].prerequisite)
    for position, (candidate, config) in enumerate(zip(candidates, configs, strict=True)):
        try:
            steps[position] = _Steps(candidate, data_dir)
        except Exception as error:
            skipped.append(SkippedNorm(label=config.label, config=config.timing_fields, reason=first_line(error)))
        yield (position + 1) / total
    timer = InterleavedTimer(
        {position: entry.run for position, entry in steps.items()},
        synchronize=lambda: synchronize(configs[0].device),
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
            peak_memory_mib=steps[position].peak_memory_mib,
        )
        for position, times in timer.times().items()
    )
    yield TimingResult(timed, tuple(skipped))


class _Steps:
    """The training steps of one configuration, all on whole batches, ready to run."""

    def __init__(self, candidate: TimingCandidate, data_dir: Path | None) -> None:
        config = candidate.config
        memory = MemoryMeter("cuda") if config.device == "cuda" else None
        training, self.per_epoch = task_of(config.task).load_timed(config, data_dir, candidate.prerequisite)
        self._step = training.step
        prepare(self._step)
        if (reason := self._step.fallback_reason) and "out of memory" in reason:
            raise NormBenchError(reason)
        order, crop_flip = training.draw_epoch(0)
        device = self._step.state.order.device
        self._order = order.to(device)
        self._crop_flip = None if crop_flip is None else CropFlip(*(drawn.to(device) for drawn in crop_flip))
        self._rewind()
        self.run(1)  # what fails, fails here, and not among the others
        synchronize(config.device)
        self.peak_memory_mib = memory.peak_mib() if memory else None
        """What the training added to the images and to the norms built before it; on a GPU only."""

    def run(self, count: int) -> None:
        """Train on that many batches."""
        for _ in range(count):
            if self._next == self._step.settings.steps_per_epoch:
                self._rewind()
            self._step(self._next)
            self._next += 1

    def _rewind(self) -> None:
        self._step.state.start_epoch(self._order, self._crop_flip, global_step=0)
        self._next = 0
