"""Looks at a comparison to which seeds are added until it is resolved, with a total error that stays what it is.

Of the 5 % of errors that all looks together may make, each look may make the share that its new seeds are of the most
that are allowed (error spending, Lan & DeMets 1983). So a p of a look counts as ``p * maximum / new seeds``, and the
least of these over the looks is a p for whatever look one stops at, by Bonferroni's inequality, however the looks
depend on each other. Holm's adjustment takes it like any other p.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

SCHEDULE = (3, 5, 8, 12, 20)
"""Numbers of seeds at which a comparison is looked at, as far as they are below the most that are allowed."""


@dataclass(frozen=True)
class Looks:
    """The seeds of each look at a comparison, the last one now, and the most seeds that it may have."""

    seeds: tuple[frozenset[int], ...]
    maximum: int

    def p(self, p_at: Callable[[frozenset[int]], float]) -> float:
        """Return one p for all looks, from the p over the seeds of each."""
        found, spent = 1.0, 0
        for seeds in self.seeds:
            new = min(len(seeds), self.maximum) - spent
            if new > 0:  # a look beyond the maximum has nothing left to spend
                found = min(found, p_at(seeds) * self.maximum / new)
                spent += new
        return found


def schedule(maximum: int) -> tuple[int, ...]:
    """Return the numbers of seeds to look at: those of `SCHEDULE` below `maximum`, and `maximum`."""
    return (*(number for number in SCHEDULE if number < maximum), maximum)
