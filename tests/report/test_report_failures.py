"""Runs without a result count: the chance of divergence, and verdicts that would rest on the survivors alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from normbench.report.columns import format_verdict, result_columns
from normbench.report.page import Report
from normbench.report.stats import failure_rate
from normbench.report.verdicts import Outcomes, judge, rank_ranges, weigh
from normbench.runs.records import read_experiment

NOISE = np.array([0.001, -0.001, 0.0005, -0.0005, 0.0])


def outcomes(mean: float, lost: tuple[int, ...] = (), noise: float = 1.0) -> Outcomes:
    scores = {seed: mean + noise * value for seed, value in enumerate(NOISE) if seed not in lost}
    return Outcomes(scores, frozenset(lost))


def verdict(candidate: Outcomes, baseline: Outcomes) -> tuple[str, bool]:
    evidence = weigh(candidate, baseline, 0.005)
    assert evidence is not None
    found = judge({"gn": evidence})["gn"]
    return found.verdict, found.is_withheld


def test_no_verdict_on_the_survivors_unless_the_worst_case_agrees() -> None:
    baseline = outcomes(0.7, noise=0.5)
    assert verdict(outcomes(0.75, lost=(4,)), baseline) == ("better", False), "4 of 5 are enough"
    assert verdict(outcomes(0.75, lost=(3, 4)), baseline) == ("not resolved", True), "the lost ones are worse"
    assert verdict(outcomes(0.65, lost=(3, 4)), baseline) == ("worse", False), "the lost ones are worse still"
    assert verdict(outcomes(0.7, lost=(3, 4)), baseline) == ("not resolved", True), "not equivalent"
    broken = outcomes(0.7, lost=(3, 4), noise=0.5)
    assert verdict(outcomes(0.75), broken) == ("better", False)
    assert verdict(outcomes(0.65), broken) == ("not resolved", True)
    assert verdict(outcomes(0.75, lost=(0,)), outcomes(0.7, lost=(4,), noise=0.5)) == ("not resolved", True)


def test_ranks_hold_to_the_same_rule() -> None:
    scores = {"fragile": outcomes(0.75, lost=(3, 4)).scores, "bn": outcomes(0.7, noise=0.5).scores}
    assert rank_ranges(scores) == {"fragile": (1, 1), "bn": (2, 2)}
    assert rank_ranges(scores, lost={"fragile": frozenset((3, 4))}) == {"fragile": (1, 2), "bn": (1, 2)}


def test_who_is_better_than_the_better_is_better_too() -> None:
    """A and C have no common seed; B ties them together."""
    seeds = range(10)
    b = {seed: 0.7 + 0.001 * (seed % 3) for seed in seeds}
    a = {seed: b[seed] + 0.02 + 0.001 * (-1) ** seed for seed in range(5)}
    c = {seed: b[seed] - 0.02 + 0.001 * (-1) ** seed for seed in range(5, 10)}
    assert rank_ranges({"a": a, "b": b, "c": c}) == {"a": (1, 1), "b": (2, 2), "c": (3, 3)}


def test_the_chance_of_divergence_has_an_exact_interval() -> None:
    assert failure_rate(0, 5) is None
    found = failure_rate(1, 4)
    expected = stats.binomtest(1, 5).proportion_ci(0.95, method="exact")
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    everything = failure_rate(3, 0)
    assert everything is not None
    assert everything.high == 1.0


def test_the_table_shows_it(tmp_path: Path, new_run: Callable[..., Path]) -> None:
    for seed in range(5):
        new_run(tmp_path, "bn", seed, accuracy=0.7 + NOISE[seed] / 2, steps_per_epoch=2, epochs=2)
        state = {"state": "diverged", "diverge_at": 2} if seed > 2 else {}
        new_run(tmp_path, "gn", seed, accuracy=0.75 + NOISE[seed], steps_per_epoch=2, epochs=2, **state)
    (table,) = Report(read_experiment(tmp_path)).tables
    row = next(row for row in table.rows if row.norm == "gn")
    cells = {column.header: column.cell(row) for column in result_columns(table)}
    assert cells["diverged"] == "2 of 5 (5 to 85 %)"
    assert format_verdict(row, table.measures[0], table) == "not resolved (too few runs completed)"
    assert "fewer than 4 of 5 seeds" in table.caption
