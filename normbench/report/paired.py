"""Two norms on the seeds that they share: differences, their tests, and how probable it is that one leads.

Runs of one seed see the same images in the same order, so the difference of two norms is taken seed by seed: what the
seed does to both cancels. docs/statistics.md states the formulas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from normbench.report.stats import CONFIDENCE, Estimate, summarize, t_quantile

Scores = Mapping[int, float]
"""The raw number of one measure by seed, of completed runs only."""

MIN_SEEDS = 3
"""Below this no verdict is given: at n = 2 two differences that happen to be close would decide."""
MAX_EXACT_SEEDS = 16
"""Up to here the sign-flip test enumerates all 2**n flips; beyond, it draws `NUM_RANDOM_FLIPS`."""
NUM_RANDOM_FLIPS = 100_000
NO_SPREAD = 1e-9
"""Standard deviations up to here are rounding."""


@dataclass(frozen=True)
class Spread:
    """What a difference's standard deviation is taken to be, and how well it is known."""

    std: float
    degrees_of_freedom: float


@dataclass(frozen=True)
class TTest:
    """The mean of paired differences, and the tests that rest on it and their spread."""

    estimate: Estimate
    """Its interval rests on `spread`; its standard deviation is that of the differences themselves."""
    spread: Spread | None
    """None for one seed or without any spread; then nothing can be tested."""

    @property
    def p(self) -> float | None:
        """The two-sided p that the mean difference is 0."""
        return self._tail(-abs(self.estimate.mean), 2)

    def equivalence_p(self, margin: float) -> float | None:
        """Return the p of two one-sided tests that the mean difference is `margin` or more, either way."""
        return self._tail(abs(self.estimate.mean) - margin)

    def chances(self, margin: float) -> tuple[float, float, float] | None:
        """Return how probable it is that the mean difference is above, within and below ± `margin`.

        By the posterior with a flat prior: a t distribution around the observed mean.
        """
        above, below = self._tail(self.estimate.mean - margin), self._tail(-self.estimate.mean - margin)
        return None if above is None or below is None else (above, max(0.0, 1 - above - below), below)

    def _tail(self, distance: float, sides: int = 1) -> float | None:
        """Return the probability below `distance`, which is in the unit of the estimate, of the t distribution."""
        if self.spread is None:
            return None
        from scipy.special import stdtr  # imported where there is something to compute

        return float(
            sides * stdtr(self.spread.degrees_of_freedom, distance / self.spread.std * np.sqrt(self.estimate.n))
        )


@dataclass(frozen=True)
class PairedDifference:
    """Candidate minus baseline over the seeds that both completed, in the raw unit of the measure."""

    estimate: Estimate
    spread: Spread | None
    """What the interval and the tests take the standard deviation to be; None without any."""
    t_p: float | None
    """Two-sided p of the paired t test; None for one seed or without any spread."""
    differences: tuple[float, ...]
    """Seed by seed."""
    cohens_dz: float | None
    """Mean difference in units of the differences' standard deviation."""
    correlation: float | None
    """Pearson's, of the two norms' results over seeds; pairing gains by as much as it is above 0."""

    @cached_property
    def sign_flip_p(self) -> float:
        """The two-sided p of the sign-flip test."""
        return sign_flip_p(self.differences)

    @property
    def test(self) -> TTest:
        """The t test behind `t_p`."""
        return TTest(self.estimate, self.spread)


def paired_difference(candidate: Scores, baseline: Scores, *, spread: Spread | None = None) -> PairedDifference | None:
    """Return the difference over common seeds; None where there is none. See `t_test` for `spread`."""
    test = t_test(candidate, baseline, spread=spread)
    if test is None:
        return None
    estimate, seeds = test.estimate, sorted(candidate.keys() & baseline.keys())
    dz = estimate.mean / estimate.std if test.spread is not None and estimate.std is not None else None
    return PairedDifference(
        estimate,
        test.spread,
        test.p,
        tuple(candidate[seed] - baseline[seed] for seed in seeds),
        dz,
        _correlation([candidate[seed] for seed in seeds], [baseline[seed] for seed in seeds]),
    )


def t_test(
    candidate: Scores, baseline: Scores, *, seeds: frozenset[int] | None = None, spread: Spread | None = None
) -> TTest | None:
    """Return the paired t test over common seeds, or those of them in `seeds`; None where there is none.

    `spread` replaces that of the differences, where it is known better than from them alone.
    """
    common = candidate.keys() & baseline.keys()
    chosen = sorted(common if seeds is None else common & seeds)
    estimate = summarize([candidate[seed] - baseline[seed] for seed in chosen])
    if estimate is None or estimate.std is None or estimate.std <= NO_SPREAD:
        return None if estimate is None else TTest(estimate, None)
    if spread is None:
        return TTest(estimate, Spread(estimate.std, estimate.n - 1))
    half_width = t_quantile(CONFIDENCE, spread.degrees_of_freedom) * spread.std / np.sqrt(estimate.n)
    low, high = float(estimate.mean - half_width), float(estimate.mean + half_width)
    return TTest(Estimate(estimate.mean, low, high, estimate.n, estimate.std), spread)


def _correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Pearson's correlation; None for fewer than three pairs, of which any two correlate, or without spread."""
    if len(first) < 3 or min(np.std(first), np.std(second)) <= NO_SPREAD:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def sign_flip_p(differences: Sequence[float] | NDArray[np.float64]) -> float:
    """Return the two-sided p of the sign-flip test: the share of sign patterns with a mean at least as far from 0.

    Exact up to `MAX_EXACT_SEEDS` differences, where the smallest possible value is 2 / 2**n.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = values.size
    if n <= MAX_EXACT_SEEDS:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        return float(np.mean(_as_far_as(signs @ values, values.sum())))
    sums = 2 * (_random_flips(n) @ values) - values.sum()  # twice those with a plus, less all
    return float((1 + np.sum(_as_far_as(sums, values.sum()))) / (1 + NUM_RANDOM_FLIPS))


@lru_cache(maxsize=1)
def _random_flips(n: int) -> NDArray[np.bool_]:
    """Return random patterns of n signs, ``(NUM_RANDOM_FLIPS, n)``, always the same ones: True is plus."""
    return np.random.default_rng(0).integers(0, 2, size=(NUM_RANDOM_FLIPS, n), dtype=np.int64).astype(np.bool_)


def _as_far_as(sums: NDArray[np.float64], observed: float) -> NDArray[np.bool_]:
    """Return which sums are at least as far from 0 as the observed one, whatever rounding did to equal ones."""
    return np.abs(sums) >= abs(observed) * (1 - 1e-12) - 1e-15
