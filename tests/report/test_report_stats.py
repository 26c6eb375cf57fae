from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from normbench.report.stats import mean_band, median_and_mad, summarize

ACCURACIES = [0.7512, 0.7498, 0.7541, 0.7463, 0.7550]


def test_interval_is_the_student_t_interval() -> None:
    estimate = summarize(ACCURACIES)
    assert estimate is not None
    expected = scipy_stats.t.interval(0.95, 4, loc=np.mean(ACCURACIES), scale=scipy_stats.sem(ACCURACIES))
    assert (estimate.low, estimate.high) == pytest.approx(expected)
    assert estimate.n == 5
    assert estimate.half_width == pytest.approx(np.diff(expected)[0] / 2)


def test_one_run_has_no_interval_and_no_run_no_mean() -> None:
    single = summarize([0.7])
    assert single is not None
    assert (single.mean, single.low, single.high, single.half_width, single.n) == (0.7, None, None, None, 1)
    assert summarize([]) is None


def test_a_diverged_runs_value_is_never_averaged_in() -> None:
    with pytest.raises(ValueError, match="finite"):
        summarize([0.7, float("nan")])


def test_median_and_mad_ignore_an_outlier() -> None:
    spread = median_and_mad([0.50, 0.52, 0.51, 9.0, 0.49])
    assert spread is not None
    assert (spread.median, spread.mad, spread.n) == pytest.approx((0.51, 0.01, 5))
    assert median_and_mad([]) is None


def test_band_is_the_interval_at_every_point() -> None:
    curves = np.random.default_rng(0).normal(size=(4, 6))
    mean, half_width = mean_band(curves)
    assert half_width is not None
    for point in range(6):
        estimate = summarize(list(curves[:, point]))
        assert estimate is not None
        assert (mean[point], half_width[point]) == pytest.approx((estimate.mean, estimate.half_width))
    assert mean_band(curves[:1])[1] is None
