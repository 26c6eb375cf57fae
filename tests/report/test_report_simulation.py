"""What docs/statistics.md claims about coverage and error rates, checked by simulation (seeded, vectorised)."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from normbench.report.stats import mean_band
from normbench.report.verdicts import Outcomes, judge, rank_ranges, weigh

NUM_EXPERIMENTS = 40_000


@pytest.mark.parametrize("n", [3, 5])
def test_t_intervals_cover_95_percent(n: int) -> None:
    runs = np.random.default_rng(n).normal(0.75, 0.005, size=(n, NUM_EXPERIMENTS))
    mean, half_width = mean_band(runs)
    assert half_width is not None
    assert np.mean(np.abs(mean - 0.75) <= half_width) == pytest.approx(0.95, abs=0.005)


def test_a_nominal_95_percent_bootstrap_covers_only_75_percent_of_three_runs() -> None:
    """Why intervals here are Student's: of the 27 resamples 1 repeats the least run, so the interval is min to max."""
    runs = np.random.default_rng(0).normal(0.75, 0.005, size=(3, NUM_EXPERIMENTS))
    resamples = np.stack([runs[list(index)].mean(axis=0) for index in product(range(3), repeat=3)])
    low, high = np.quantile(resamples, [0.025, 0.975], axis=0, method="inverted_cdf")
    assert np.mean((low <= 0.75) & (high >= 0.75)) == pytest.approx(1 - 2 / 2**3, abs=0.01)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape)


def _heavy_tailed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_t(3, shape)


def _skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return -rng.exponential(1.0, shape)


def _verdicts(experiment: np.ndarray, margin: float) -> set[str]:
    """The verdicts on all rows but the first, which is the baseline's, ``(norms, seeds)``; no seeds are planned."""
    baseline, *others = (Outcomes(dict(enumerate(row))) for row in experiment)
    evidence = {index: found for index, other in enumerate(others) if (found := weigh(other, baseline, margin))}
    assert len(evidence) == len(others)
    return {comparison.verdict for comparison in judge(evidence, can_plan=False).values()}


@pytest.mark.parametrize("noise", [_normal, _heavy_tailed, _skewed])
@pytest.mark.parametrize("n", [3, 5])
def test_equal_norms_are_called_different_in_at_most_5_percent_of_experiments(noise, n: int) -> None:  # type: ignore[no-untyped-def]
    """Family-wise: any of three norms called better or worse. Accuracies are shares of 10,000 images, as real ones."""
    num_experiments = 1000
    rng = np.random.default_rng([n, len(noise.__name__)])
    accuracies = np.round(0.75 + 0.004 * noise(rng, (num_experiments, 4, n)), 4)
    false_alarms = sum(bool(_verdicts(experiment, 0.005) & {"better", "worse"}) for experiment in accuracies)
    # 0.05 and three standard errors of 1000 Bernoulli trials
    assert false_alarms / num_experiments <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / num_experiments)


def test_norms_that_differ_by_the_margin_are_called_equivalent_in_at_most_5_percent_of_experiments() -> None:
    num_experiments = 500
    rng = np.random.default_rng(5)
    accuracies = rng.normal(0.75, 0.004, size=(num_experiments, 9, 8))
    accuracies[:, 1:] += 0.005
    false_equivalents = sum("equivalent" in _verdicts(experiment, margin=0.005) for experiment in accuracies)
    assert false_equivalents / num_experiments <= 0.05


def test_rank_ranges_hold_all_true_ranks_in_95_percent_of_experiments() -> None:
    num_experiments = 500
    rng = np.random.default_rng(6)
    truth = np.array([0.76, 0.75, 0.748, 0.74])
    missed = 0
    for experiment in truth[:, None] + rng.normal(0, 0.003, size=(num_experiments, 4, 5)):
        ranges = rank_ranges({str(index): dict(enumerate(row)) for index, row in enumerate(experiment)})
        missed += any(not low <= rank <= high for rank, (low, high) in enumerate(ranges.values(), start=1))
    assert missed / num_experiments <= 0.05
