"""Spreads that borrow from each other: the moderated t test of limma, in sweeps and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from normbench.config.schema import AnalysisConfig
from normbench.report.borrowing import fit_prior, moderated
from normbench.report.page import Report
from normbench.report.paired import Spread
from normbench.runs.records import read_experiment


def observed(rng: np.random.Generator, degrees: float, scale: float, count: int, *, prior: float) -> list[Spread]:
    """Spreads of `degrees` whose true variances come from a scaled inverse chi-square distribution."""
    variances = scale**2 * prior / rng.chisquare(prior, count)
    return [Spread(float(np.sqrt(v)), degrees) for v in variances * rng.chisquare(degrees, count) / degrees]


def test_the_prior_is_found_again() -> None:
    found = fit_prior(observed(np.random.default_rng(0), 2, 1.5, 50_000, prior=4.0))
    assert found.std == pytest.approx(1.5, rel=0.03)
    assert found.degrees_of_freedom == pytest.approx(4.0, rel=0.1)


def test_a_variance_is_drawn_towards_the_prior_by_its_degrees_of_freedom() -> None:
    spreads = observed(np.random.default_rng(1), 2, 1.0, 64, prior=4.0)
    prior = fit_prior(spreads)
    for before, after in zip(spreads, moderated(spreads), strict=True):
        d0 = prior.degrees_of_freedom
        assert after.degrees_of_freedom == pytest.approx(d0 + 2)
        assert after.std**2 == pytest.approx((d0 * prior.std**2 + 2 * before.std**2) / (d0 + 2))


def test_spreads_that_agree_are_one() -> None:
    same = [Spread(2.0, 4.0)] * 10
    assert fit_prior(same) == Spread(pytest.approx(2.0), inf)  # type: ignore[arg-type]
    assert [spread.std for spread in moderated(same)] == pytest.approx([2.0] * 10)


def test_a_sweep_of_three_seeds_keeps_its_error_and_gains_power() -> None:
    """64 cells; in a family of 64, equal norms are called different in at most 5 % of sweeps."""
    rng = np.random.default_rng(2)
    false_own = false_borrowed = 0
    power_own = power_borrowed = 0.0
    num_sweeps = 400
    for _ in range(num_sweeps):
        std = np.sqrt(4.0 / rng.chisquare(4.0, 64))
        differences = rng.standard_normal((64, 3)) * std[:, None]
        own = [Spread(float(value), 2) for value in differences.std(axis=1, ddof=1)]
        for shift in (0.0, 6.0):
            means = np.abs(differences.mean(axis=1) + shift)
            smallest = []
            for spreads in (own, moderated(own)):
                t = [mean / spread.std * np.sqrt(3) for mean, spread in zip(means, spreads, strict=True)]
                degrees = [spread.degrees_of_freedom for spread in spreads]
                smallest.append(2 * stats.t.sf(t, degrees) * 64)
            if shift:
                power_own += np.mean(smallest[0] < 0.05) / num_sweeps
                power_borrowed += np.mean(smallest[1] < 0.05) / num_sweeps
            else:
                false_own += smallest[0].min() < 0.05
                false_borrowed += smallest[1].min() < 0.05
    assert false_borrowed / num_sweeps <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / num_sweeps)
    assert power_borrowed > 3 * power_own > 0


@pytest.fixture
def sweep_folder(tmp_path: Path, new_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nine batch sizes; at the smallest the differences happen to be close to each other."""
    monkeypatch.setattr("normbench.report.verdicts.MIN_CELLS", 9)
    rng = np.random.default_rng(4)
    for index in range(9):
        for seed in range(3):
            noise = 0.001 if index == 0 else 0.01
            train = {"batch_size": 2**index}
            new_run(tmp_path, "bn", seed, accuracy=0.7, train=train, steps_per_epoch=2, epochs=1)
            accuracy = 0.705 + noise * rng.standard_normal()
            new_run(tmp_path, "gn", seed, accuracy=accuracy, train=train, steps_per_epoch=2, epochs=1)
    return tmp_path


def comparisons(folder: Path, analysis: AnalysisConfig | None = None) -> tuple[list, str]:  # type: ignore[type-arg]
    (table,) = Report(read_experiment(folder), analysis=analysis).tables
    return [row.results["test_accuracy"].comparison for row in table.rows if not row.is_baseline], table.caption


def test_a_lucky_cell_decides_nothing_unless_asked_to(sweep_folder: Path) -> None:
    borrowed, caption = comparisons(sweep_folder)
    own, own_caption = comparisons(sweep_folder, AnalysisConfig(spread="own"))
    assert (own[0].verdict, borrowed[0].verdict) == ("better", "not resolved")
    assert "moderated t test" in caption
    assert "moderated t test" not in own_caption
    assert borrowed[0].difference.estimate.mean == own[0].difference.estimate.mean
    assert borrowed[0].difference.estimate.half_width > own[0].difference.estimate.half_width


def test_the_family_may_be_the_whole_sweep(sweep_folder: Path) -> None:
    alone, _ = comparisons(sweep_folder, AnalysisConfig(spread="own"))
    together, caption = comparisons(sweep_folder, AnalysisConfig(spread="own", family="sweep"))
    assert alone[0].holm_p == pytest.approx(alone[0].difference.t_p), "a family of one in each setting"
    assert together[0].holm_p == pytest.approx(min(1.0, 9 * alone[0].difference.t_p)), "the smallest of nine"
    assert "over all settings together" in caption
