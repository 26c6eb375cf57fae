"""Interleaved timing, on a clock that only the steps move."""

from collections import Counter

import numpy as np
import pytest

from normbench.engine.interleaved_timer import InterleavedTimer, StepTimes, round_order
from normbench.report.stats import median_and_mad


class Machine:
    """A clock in seconds, and steps of known duration that are only done once someone waits for them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.drift = 0.0
        self.queued = 0.0
        self.calls: list[tuple[str, int]] = []

    def clock(self) -> float:
        return self.now

    def synchronize(self) -> None:
        self.now += self.queued
        self.queued = 0.0

    def variant(self, label: str, seconds: float):
        def run(steps: int) -> None:
            self.calls.append((label, steps))
            self.queued += steps * seconds * (1 + self.drift * self.now)

        return run

    def time(self, durations: dict[str, float], *, rounds: int, block_seconds: float) -> dict[str, StepTimes]:
        variants = {label: self.variant(label, seconds) for label, seconds in durations.items()}
        timer = InterleavedTimer(variants, synchronize=self.synchronize, block_seconds=block_seconds, clock=self.clock)
        assert list(timer.rounds(rounds)) == list(range(1, rounds + 1))
        return timer.times()


def test_the_seconds_of_a_step_are_found_whatever_the_block() -> None:
    times = Machine().time({"a": 0.002, "b": 0.5, "c": 3.0}, rounds=4, block_seconds=1.0)
    assert {label: time.median for label, time in times.items()} == pytest.approx({"a": 0.002, "b": 0.5, "c": 3.0})
    assert [len(time.seconds_per_step) for time in times.values()] == [4, 4, 4]
    assert {label: time.steps_per_block for label, time in times.items()} == {"a": 500, "b": 2, "c": 1}
    assert all(time.mad == pytest.approx(0, abs=1e-12) for time in times.values())


def test_a_block_times_the_device_and_not_the_launch() -> None:
    machine = Machine()
    machine.queued = 1000.0  # left over from what was before
    assert machine.time({"a": 0.25}, rounds=1, block_seconds=1.0)["a"].seconds_per_step == (0.25,)


def test_every_variant_takes_every_place_and_follows_every_other_one() -> None:
    labels = list("abcd")
    orders = [round_order(labels, number) for number in range(8)]
    assert all(sorted(order) == labels for order in orders)
    assert orders[1] == orders[0][::-1]
    for place in range(4):
        assert Counter(order[place] for order in orders) == dict.fromkeys(labels, 2)
    assert len({order[0] for order in orders}) == 4
    assert round_order(["only"], 5) == ["only"]


def test_the_order_of_the_blocks_is_that_of_the_rounds() -> None:
    machine = Machine()
    machine.time({"a": 1.0, "b": 1.0, "c": 1.0}, rounds=3, block_seconds=1.0)
    blocks = "".join(label for label, _ in machine.calls[-9:])
    assert blocks == "abccbabca"


def test_a_steady_drift_favors_no_variant() -> None:
    machine = Machine()
    machine.drift = 0.01
    times = machine.time({"first": 1.0, "last": 1.0}, rounds=10, block_seconds=1.0)
    assert times["first"].median > 1.1
    assert times["first"].median == pytest.approx(times["last"].median, rel=0.005)


def test_lead_steps_run_before_each_block_and_are_not_timed() -> None:
    machine = Machine()
    alone = InterleavedTimer(
        {"a": machine.variant("a", 1.0), "b": machine.variant("b", 2.0)},
        synchronize=machine.synchronize,
        block_seconds=4.0,
        lead_steps=3,
        clock=machine.clock,
    )
    assert list(alone.rounds(2)) == [1, 2]
    assert machine.calls[-8:] == [("a", 3), ("a", 4), ("b", 3), ("b", 2), ("b", 3), ("b", 2), ("a", 3), ("a", 4)]
    assert {label: time.seconds_per_step for label, time in alone.times().items()} == {"a": (1.0, 1.0), "b": (2.0, 2.0)}


def test_median_and_spread_agree_with_those_of_the_reports() -> None:
    samples = tuple(np.random.default_rng(0).lognormal(size=7).tolist())
    times = StepTimes(samples, 3)
    expected = median_and_mad(samples)
    assert (times.median, times.mad) == (expected.median, expected.mad)
    assert times.range == (min(samples), max(samples))


def test_what_is_measured_survives_an_interruption() -> None:
    machine = Machine()
    timer = InterleavedTimer(
        {"a": machine.variant("a", 1.0), "b": machine.variant("b", 2.0)},
        synchronize=machine.synchronize,
        block_seconds=2.0,
        clock=machine.clock,
    )
    assert timer.times() == {}
    assert next(timer.rounds(100)) == 1
    assert {label: time.seconds_per_step for label, time in timer.times().items()} == {"a": (1.0,), "b": (2.0,)}


def test_a_step_that_takes_no_time_ends_all_the_same() -> None:
    times = Machine().time({"nothing": 0.0}, rounds=1, block_seconds=1.0)
    assert times["nothing"].seconds_per_step == (0.0,)
