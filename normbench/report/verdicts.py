"""Comparisons of norms that share their seeds: paired differences, tests, verdicts and ranks.

Runs of one seed see the same images in the same order, so the difference of two norms is taken seed by seed: what the
seed does to both cancels. docs/statistics.md states the formulas and the rule of the verdict, and why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from normbench.report.stats import CONFIDENCE, Estimate, summarize, t_quantile

Verdict = Literal["better", "worse", "equivalent", "not resolved"]
Scores = Mapping[int, float]
"""The raw number of one measure by seed, of completed runs only."""

MIN_SEEDS = 3
"""Below this no verdict is given: at n = 2 two differences that happen to be close would decide."""
MAX_EXACT_SEEDS = 16
"""Up to here the sign-flip test enumerates all 2**n flips; beyond, it draws `NUM_RANDOM_FLIPS`."""
NUM_RANDOM_FLIPS = 100_000
POWER = 0.8
MAX_SEEDS = 1000
"""`seeds_to_resolve` looks no further."""
_NO_SPREAD = 1e-9


@dataclass(frozen=True)
class PairedDifference:
    """Candidate minus baseline over the seeds that both completed, in the raw unit of the measure."""

    estimate: Estimate
    t_p: float | None
    """Two-sided p of the paired t test; None for one seed or without any spread."""
    sign_flip_p: float
    cohens_dz: float | None
    """Mean difference in units of the differences' standard deviation."""


@dataclass(frozen=True)
class Comparison:
    """A candidate's difference to the baseline, and whether it is resolved."""

    difference: PairedDifference
    holm_p: float | None
    """`t_p` adjusted for the number of norms compared; None where no verdict can be given."""
    verdict: Verdict
    seeds_to_resolve: int | None
    """Seeds that would resolve it if mean and spread stay as they are; None where it is resolved or unknown."""


def paired_difference(candidate: Scores, baseline: Scores) -> PairedDifference | None:
    """Return the difference over common seeds; None where there is no common seed."""
    differences = _differences(candidate, baseline)
    estimate = summarize(list(differences))
    if estimate is None:
        return None
    dz = estimate.mean / estimate.std if estimate.std is not None and estimate.std > _NO_SPREAD else None
    return PairedDifference(estimate, _paired_t_p(estimate), sign_flip_p(differences), dz)


def _differences(candidate: Scores, baseline: Scores) -> NDArray[np.float64]:
    seeds = sorted(candidate.keys() & baseline.keys())
    return np.array([candidate[seed] - baseline[seed] for seed in seeds], dtype=np.float64)


def _paired_t_p(estimate: Estimate) -> float | None:
    """Return the two-sided p of the t test that the mean difference is 0."""
    from scipy.special import stdtr

    if estimate.std is None or estimate.std <= _NO_SPREAD:
        return None
    return float(2 * stdtr(estimate.n - 1, -abs(estimate.mean) / estimate.std * np.sqrt(estimate.n)))


def sign_flip_p(differences: Sequence[float] | NDArray[np.float64]) -> float:
    """Return the two-sided p of the sign-flip test: the share of sign patterns with a mean at least as far from 0.

    Exact up to `MAX_EXACT_SEEDS` differences, where the smallest possible value is 2 / 2**n.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = values.size
    if n <= MAX_EXACT_SEEDS:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        return float(np.mean(_as_far_as(signs @ values, values.sum())))
    signs = np.random.default_rng(0).choice(np.array([-1.0, 1.0]), size=(NUM_RANDOM_FLIPS, n))
    return float((1 + np.sum(_as_far_as(signs @ values, values.sum()))) / (1 + NUM_RANDOM_FLIPS))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjustment of `p_values`, in their order (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def compare_to_baseline(
    candidates: Mapping[str, Scores], baseline: Scores, margin: float, *, higher_is_better: bool = True
) -> dict[str, Comparison]:
    """Compare each candidate with the baseline; candidates without a common seed are left out.

    Differences smaller than `margin`, in the raw unit of the scores, count as equivalent.
    """
    differences = {name: paired_difference(scores, baseline) for name, scores in candidates.items()}
    known = {name: difference for name, difference in differences.items() if difference is not None}
    testable = [name for name, difference in known.items() if difference.estimate.n >= MIN_SEEDS]
    adjusted = dict(zip(testable, holm([_p_or_one(known[name].estimate) for name in testable]), strict=True))
    return {
        name: _judge(difference, adjusted.get(name), len(testable), margin, higher_is_better)
        for name, difference in known.items()
    }


def _judge(
    difference: PairedDifference, holm_p: float | None, num_tests: int, margin: float, higher_is_better: bool
) -> Comparison:
    """Give the verdict by the rule of docs/statistics.md."""
    estimate, std = difference.estimate, difference.estimate.std
    if holm_p is None or std is None or std <= _NO_SPREAD:
        return Comparison(difference, holm_p, "not resolved", None)
    if holm_p < 1 - CONFIDENCE:
        return Comparison(difference, holm_p, "better" if (estimate.mean > 0) == higher_is_better else "worse", None)
    simultaneous = 1 - (1 - CONFIDENCE) / num_tests
    half_width = t_quantile(simultaneous, estimate.n - 1) * std / np.sqrt(estimate.n)
    if abs(estimate.mean) + half_width < margin:
        return Comparison(difference, holm_p, "equivalent", None)
    return Comparison(difference, holm_p, "not resolved", seeds_to_resolve(estimate.mean, std, num_tests, margin))


def seeds_to_resolve(mean: float, std: float, num_tests: int, margin: float) -> int | None:
    """Return how many seeds a fresh comparison should plan for a verdict, were `mean` and `std` the truth.

    A direction then comes with a power of about 80 %; equivalence, where the true difference is 0, with about 63 %.
    None where more than `MAX_SEEDS` would be needed.
    """
    distance = max(abs(mean), margin - abs(mean))
    enough = np.flatnonzero(_planning_widths(num_tests) * std <= distance)
    return MIN_SEEDS + int(enough[0]) if enough.size else None


@lru_cache(maxsize=256)
def _planning_widths(num_tests: int) -> NDArray[np.float64]:
    """Return ``(t[1 - alpha / (2 num_tests)] + t[power]) / sqrt(n)`` for n = MIN_SEEDS ... MAX_SEEDS."""
    from scipy.special import stdtrit

    n = np.arange(MIN_SEEDS, MAX_SEEDS + 1)
    quantiles = stdtrit(n - 1, 1 - (1 - CONFIDENCE) / (2 * num_tests)) + stdtrit(n - 1, POWER)
    return np.asarray(quantiles / np.sqrt(n), dtype=np.float64)


def rank_ranges(scores: Mapping[str, Scores], *, higher_is_better: bool = True) -> dict[str, tuple[int, int]]:
    """Return the ranks (1 is best) that each norm may hold, at a joint confidence of 95 %.

    All pairs are compared by the paired t test with Holm's adjustment. A norm's best rank is one more than the number
    of norms resolved to be better; its worst leaves out those resolved to be worse. Norms without any score are left
    out.
    """
    names = [name for name, by_seed in scores.items() if by_seed]
    pairs = list(combinations(names, 2))
    estimates = [summarize(list(_differences(scores[first], scores[second]))) for first, second in pairs]
    adjusted = holm([_p_or_one(estimate) for estimate in estimates])
    num_better = dict.fromkeys(names, 0)
    num_worse = dict.fromkeys(names, 0)
    for (first, second), estimate, p in zip(pairs, estimates, adjusted, strict=True):
        if estimate is not None and p < 1 - CONFIDENCE:
            winner, loser = (first, second) if (estimate.mean > 0) == higher_is_better else (second, first)
            num_better[loser] += 1
            num_worse[winner] += 1
    return {name: (1 + num_better[name], len(names) - num_worse[name]) for name in names}


def _p_or_one(estimate: Estimate | None) -> float:
    """Return the paired t test's p where there are seeds enough to go by it, else 1."""
    p = _paired_t_p(estimate) if estimate is not None and estimate.n >= MIN_SEEDS else None
    return 1.0 if p is None else p


def _as_far_as(sums: NDArray[np.float64], observed: float) -> NDArray[np.bool_]:
    """Return which sums are at least as far from 0 as the observed one, whatever rounding did to equal ones."""
    return np.abs(sums) >= abs(observed) * (1 - 1e-12) - 1e-15
