"""Verdicts and ranks of norms that share their seeds; docs/statistics.md states the rule, and why."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, TypeVar

import numpy as np

from normbench.report.borrowing import MIN_CELLS, moderated
from normbench.report.paired import MIN_SEEDS, PairedDifference, Scores, Spread, TTest, paired_difference, t_test
from normbench.report.power import seeds_to_resolve
from normbench.report.sequential import Looks
from normbench.report.stats import CONFIDENCE

Verdict = Literal["better", "worse", "equivalent", "not resolved"]
Key = TypeVar("Key", bound=Hashable)

MIN_COMPLETED = 0.8
"""Below this share of seeds that both norms completed, a verdict stands only if the lost runs speak for it too."""


@dataclass(frozen=True)
class Outcomes:
    """A norm's results by seed, and the seeds of its runs that ended without one: they diverged or failed."""

    scores: Scores
    lost: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Evidence:
    """What two norms' runs say, before the number of norms that are compared counts."""

    difference: PairedDifference
    p: float | None
    """Two-sided, over all looks; None below `MIN_SEEDS` pairs."""
    equivalence_p: float | None
    """Of two one-sided tests against the margin, over all looks; None below `MIN_SEEDS` pairs."""
    margin: float
    holds_for: frozenset[Verdict]
    """The verdicts that the runs without a result leave possible."""


@dataclass(frozen=True)
class Comparison:
    """A candidate's difference to the baseline, and whether it is resolved."""

    difference: PairedDifference
    holm_p: float | None
    """`Evidence.p` adjusted for the number of norms compared; None where no verdict can be given."""
    equivalence_p: float | None
    """`Evidence.equivalence_p`, adjusted likewise."""
    verdict: Verdict
    seeds_to_resolve: int | None
    """Seeds that would resolve it if mean and spread stay as they are; None where it is resolved or unknown."""
    margin: float
    """Differences smaller than this count as equivalent, in the raw unit of the measure."""
    is_withheld: bool = False
    """Whether a verdict is not given because runs ended without a result."""

    @property
    def is_borrowed(self) -> bool:
        """Whether the spread behind it is not that of the differences alone."""
        spread, std = self.difference.spread, self.difference.estimate.std
        return spread is not None and spread.std != std


def compare_to_baseline(
    candidates: Mapping[str, Scores], baseline: Scores, margin: float, *, higher_is_better: bool = True
) -> dict[str, Comparison]:
    """Compare each candidate with the baseline; candidates without a common seed are left out.

    Differences smaller than `margin`, in the raw unit of the scores, count as equivalent.
    """
    found = {name: weigh(Outcomes(scores), Outcomes(baseline), margin) for name, scores in candidates.items()}
    return judge({name: evidence for name, evidence in found.items() if evidence}, higher_is_better=higher_is_better)


def weigh(
    candidate: Outcomes,
    baseline: Outcomes,
    margin: float,
    *,
    looks: Looks | None = None,
    spread: Spread | None = None,
) -> Evidence | None:
    """Return what the common seeds say; None where there is none.

    With `looks`, seeds were added until the question was resolved. `spread` replaces that of the differences.
    """
    difference = paired_difference(candidate.scores, baseline.scores, spread=spread)
    if difference is None:
        return None
    p = equivalence_p = None
    if difference.estimate.n >= MIN_SEEDS:
        p = _p(candidate, baseline, lambda test: test.p, looks, spread)
        equivalence_p = _p(candidate, baseline, lambda test: test.equivalence_p(margin), looks, spread)
    return Evidence(difference, p, equivalence_p, margin, _holds_for(candidate, baseline))


def _p(
    candidate: Outcomes,
    baseline: Outcomes,
    p_of: Callable[[TTest], float | None],
    looks: Looks | None = None,
    spread: Spread | None = None,
) -> float:
    """Return the p of one test over all looks; 1 where there are too few pairs, or no spread to test by."""

    def at(seeds: frozenset[int] | None) -> float:
        test = t_test(candidate.scores, baseline.scores, seeds=seeds, spread=spread)
        return _or_one(p_of(test) if test is not None and test.estimate.n >= MIN_SEEDS else None)

    return at(None) if looks is None else looks.p(at)


def _or_one(p: float | None) -> float:
    return 1.0 if p is None else p


def _holds_for(candidate: Outcomes, baseline: Outcomes) -> frozenset[Verdict]:
    """Return the verdicts that would stand if every lost run counted as worse than any other."""
    everything: frozenset[Verdict] = frozenset(("better", "worse", "equivalent"))
    ended = (candidate.scores.keys() | candidate.lost) & (baseline.scores.keys() | baseline.lost)
    completed = candidate.scores.keys() & baseline.scores.keys()
    if len(completed) >= MIN_COMPLETED * len(ended):
        return everything
    only_candidate = bool(candidate.lost & ended) and not baseline.lost & ended
    only_baseline = bool(baseline.lost & ended) and not candidate.lost & ended
    return frozenset(("worse",)) if only_candidate else frozenset(("better",)) if only_baseline else frozenset()


def judge(
    evidence: Mapping[Key, Evidence], *, higher_is_better: bool = True, can_plan: bool = True
) -> dict[Key, Comparison]:
    """Give the verdicts of one family, by the rule of docs/statistics.md.

    Without `can_plan`, nothing is said of seeds for a fresh comparison: this one may have more.
    """
    testable = [key for key, found in evidence.items() if found.p is not None]
    adjusted = dict(zip(testable, holm([_or_one(evidence[key].p) for key in testable]), strict=True))
    equivalence = dict(zip(testable, holm([_or_one(evidence[key].equivalence_p) for key in testable]), strict=True))
    return {
        key: _judge(found, adjusted.get(key), equivalence.get(key), len(testable), higher_is_better, can_plan)
        for key, found in evidence.items()
    }


def _judge(
    found: Evidence,
    holm_p: float | None,
    equivalence_p: float | None,
    num_tests: int,
    higher_is_better: bool,
    can_plan: bool,
) -> Comparison:
    difference = found.difference
    estimate = difference.estimate
    verdict: Verdict = "not resolved"
    if difference.spread is None or holm_p is None or equivalence_p is None:
        return Comparison(difference, holm_p, equivalence_p, verdict, None, found.margin)
    if holm_p < 1 - CONFIDENCE:
        verdict = "better" if (estimate.mean > 0) == higher_is_better else "worse"
    elif equivalence_p < 1 - CONFIDENCE:
        verdict = "equivalent"
    if verdict != "not resolved" and verdict not in found.holds_for:
        return Comparison(difference, holm_p, equivalence_p, "not resolved", None, found.margin, is_withheld=True)
    seeds = None
    if verdict == "not resolved" and can_plan and estimate.std is not None:
        seeds = seeds_to_resolve(estimate.mean, difference.spread.std, num_tests, found.margin)
    return Comparison(difference, holm_p, equivalence_p, verdict, seeds, found.margin)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjustment of `p_values`, in their order (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def borrowed_spreads(evidence: Mapping[Key, Evidence]) -> dict[Key, Spread]:
    """Return the spread of each cell of a sweep, drawn towards those of the others; none of too few cells."""
    known = {key: found.difference.spread for key, found in evidence.items() if found.p is not None}
    spreads = {key: spread for key, spread in known.items() if spread is not None}
    if len(spreads) < MIN_CELLS:
        return {}
    return dict(zip(spreads, moderated(list(spreads.values())), strict=True))


def rank_ranges(
    scores: Mapping[str, Scores],
    *,
    higher_is_better: bool = True,
    lost: Mapping[str, frozenset[int]] | None = None,
    looks: Looks | None = None,
) -> dict[str, tuple[int, int]]:
    """Return the ranks (1 is best) that each norm may hold, at a joint confidence of 95 %.

    All pairs are compared by the paired t test with Holm's adjustment. Whoever is resolved to be better than a norm is
    better than those that it is better than. A norm's best rank is one more than the number of norms that are better;
    its worst leaves out those that are worse. Norms without any score are left out.
    """
    names = [name for name, by_seed in scores.items() if by_seed]
    outcomes = [Outcomes(scores[name], (lost or {}).get(name, frozenset())) for name in names]
    pairs = list(combinations(range(len(names)), 2))
    tests = [t_test(outcomes[first].scores, outcomes[second].scores) for first, second in pairs]
    adjusted = holm([_p(outcomes[first], outcomes[second], lambda test: test.p, looks) for first, second in pairs])
    is_better = np.zeros((len(names), len(names)), dtype=bool)
    for (first, second), test, p in zip(pairs, tests, adjusted, strict=True):
        if test is None or p >= 1 - CONFIDENCE:
            continue
        leads = (test.estimate.mean > 0) == higher_is_better
        if ("better" if leads else "worse") in _holds_for(outcomes[first], outcomes[second]):
            is_better[(first, second) if leads else (second, first)] = True
    for middle in range(len(names)):
        is_better |= is_better[:, middle, None] & is_better[middle]
    return {
        name: (1 + int(is_better[:, index].sum()), len(names) - int(is_better[index].sum()))
        for index, name in enumerate(names)
    }
