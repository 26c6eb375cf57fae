"""Timing several variants of a step against each other: round-robin in one process, so that drift favors none."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

Label = TypeVar("Label", bound=Hashable)
RunSteps = Callable[[int], object]
"""A function that runs so many steps; it may return before the device is done."""

MAX_STEPS_PER_BLOCK = 100_000


@dataclass(frozen=True)
class StepTimes:
    """The time of a step: one sample a round, each the mean over a block of steps."""

    seconds_per_step: tuple[float, ...]
    steps_per_block: int

    @property
    def median(self) -> float:
        """Median over rounds of the seconds of a step."""
        return statistics.median(self.seconds_per_step)

    @property
    def mad(self) -> float:
        """Median absolute deviation from the median, in seconds; 0 for a single round."""
        median = self.median
        return statistics.median(abs(seconds - median) for seconds in self.seconds_per_step)

    @property
    def range(self) -> tuple[float, float]:
        """The fastest and the slowest round, in seconds per step."""
        return min(self.seconds_per_step), max(self.seconds_per_step)


class InterleavedTimer(Generic[Label]):
    """Times blocks of steps of several variants in turn; what `rounds` has measured so far can be read at any time.

    Every variant is warmed up with a step, and its steps per block chosen so that a block takes about `block_seconds`
    (at least one step). Each round then times one block of every variant. Rounds come in pairs, the second reversed,
    each pair starting one variant later: a steady drift cancels, and no variant always follows the same one.

    Args:
        variants: functions that run n steps, by label.
        synchronize: waits until the device has done all that was asked of it; called before and after each block.
        block_seconds: about how long a block takes.
        lead_steps: run before each block without being timed, where a variant leaves the process in another state than
            it found it in.
        clock: seconds from any origin.
    """

    def __init__(
        self,
        variants: Mapping[Label, RunSteps],
        *,
        synchronize: Callable[[], object],
        block_seconds: float,
        lead_steps: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._variants = dict(variants)
        self._synchronize = synchronize
        self._block_seconds = block_seconds
        self._lead_steps = lead_steps
        self._clock = clock
        self._steps: dict[Label, int] = {}
        self._samples: dict[Label, list[float]] = {label: [] for label in variants}

    def rounds(self, count: int) -> Iterator[int]:
        """Calibrate where that is not done yet, then measure `count` rounds, yielding the number of rounds done."""
        for label in self._variants:
            if label not in self._steps:
                self._steps[label] = self._calibrate(label)
        for number in range(count):
            for label in round_order(list(self._variants), number):
                steps = self._steps[label]
                if self._lead_steps:
                    self._variants[label](self._lead_steps)
                self._samples[label].append(self._time(label, steps) / steps)
            yield number + 1

    def times(self) -> dict[Label, StepTimes]:
        """Return what is measured, without the variants that have no sample yet."""
        return {
            label: StepTimes(tuple(samples), self._steps[label]) for label, samples in self._samples.items() if samples
        }

    def _calibrate(self, label: Label) -> int:
        """Warm up and return the steps of a block: doubled until they take half a block, then scaled to a whole."""
        self._time(label, 1)
        steps = 1
        while (seconds := self._time(label, steps)) < self._block_seconds / 2 and steps < MAX_STEPS_PER_BLOCK:
            steps *= 2
        if seconds > 0:
            steps = round(steps * self._block_seconds / seconds)
        return max(1, min(steps, MAX_STEPS_PER_BLOCK))

    def _time(self, label: Label, steps: int) -> float:
        self._synchronize()
        began = self._clock()
        self._variants[label](steps)
        self._synchronize()
        return self._clock() - began


def round_order(labels: list[Label], number: int) -> list[Label]:
    """Return the order of round `number`, from 0: odd rounds go back what the even one before went forth."""
    first = number // 2 % max(1, len(labels))
    order = labels[first:] + labels[:first]
    return order[::-1] if number % 2 else order
