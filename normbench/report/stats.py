"""Estimates with their uncertainty; docs/statistics.md states each formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean and its Student-t interval; `low` and `high` are None where one value allows no interval."""

    mean: float
    low: float | None
    high: float | None
    n: int
    std: float | None
    """Sample standard deviation (n - 1 in the denominator)."""

    @property
    def half_width(self) -> float | None:
        """Half of the interval: the number after the ±."""
        return None if self.high is None else self.high - self.mean


@dataclass(frozen=True)
class Spread:
    """A median and the median absolute deviation from it, which outliers do not move."""

    median: float
    mad: float
    n: int


@dataclass(frozen=True)
class Share:
    """How many of `n` runs it was, and the exact 95 % interval of the chance behind it (Clopper & Pearson 1934)."""

    count: int
    n: int
    low: float
    high: float


def failure_rate(num_diverged: int, num_completed: int) -> Share | None:
    """Return the share of runs that diverged; None where none did."""
    if num_diverged == 0:
        return None
    from scipy.special import betaincinv  # imported where there is something to compute

    tail = (1 - CONFIDENCE) / 2
    low = float(betaincinv(num_diverged, num_completed + 1, tail))
    high = float(betaincinv(num_diverged + 1, num_completed, 1 - tail)) if num_completed else 1.0
    return Share(num_diverged, num_diverged + num_completed, low, high)


def summarize(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate | None:
    """Return the mean of `values` with its two-sided Student-t interval; None for no values.

    Raises:
        ValueError: a value is not finite; whoever counts diverged runs must leave them out first.
    """
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError("a mean over runs takes finite values only")
    if array.size == 0:
        return None
    mean = float(array.mean())
    if array.size == 1:
        return Estimate(mean, None, None, 1, None)
    std = float(array.std(ddof=1))
    half_width = t_quantile(confidence, array.size - 1) * std / np.sqrt(array.size)
    return Estimate(mean, float(mean - half_width), float(mean + half_width), int(array.size), std)


def median_and_mad(values: Sequence[float]) -> Spread | None:
    """Return the median of `values` and their median absolute deviation; None for no values."""
    if not values:
        return None
    middle = median(values)  # NumPy's would import its masked arrays
    return Spread(middle, median(abs(value - middle) for value in values), len(values))


def mean_band(
    curves: ArrayLike, confidence: float = CONFIDENCE
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return the mean curve ``(points,)`` of ``(runs, points)`` and the half width of its pointwise t interval.

    The half width is None for a single run.
    """
    array = np.asarray(curves, dtype=np.float64)
    mean = array.mean(axis=0)
    num_runs = array.shape[0]
    if num_runs < 2:
        return mean, None
    return mean, t_quantile(confidence, num_runs - 1) * array.std(axis=0, ddof=1) / np.sqrt(num_runs)


@lru_cache(maxsize=256)
def t_quantile(confidence: float, degrees_of_freedom: float) -> float:
    """Return q such that a Student-t variable lies within ±q with probability `confidence`."""
    from scipy.special import stdtrit  # what scipy.stats.t.ppf calls, at a tenth of the import time

    return float(stdtrit(degrees_of_freedom, 0.5 + confidence / 2))
