"""How many seeds a fresh comparison should plan for a verdict."""

from __future__ import annotations

import numpy as np

from normbench.report.paired import MIN_SEEDS
from normbench.report.stats import CONFIDENCE

POWER = 0.8
MAX_SEEDS = 1000
"""`seeds_to_resolve` looks no further."""


def seeds_to_resolve(mean: float, std: float, num_tests: int, margin: float) -> int | None:
    """Return the least number of seeds, from `MIN_SEEDS` on, that brings a verdict with a probability of about 80 %.

    That is were `mean` and `std` those of all differences, and `num_tests` norms compared: the probability of a
    direction or that of "equivalent", whichever is larger. None where more than `MAX_SEEDS` would be needed.
    """
    from scipy.special import stdtr, stdtrit

    n = np.arange(MIN_SEEDS, MAX_SEEDS + 1)
    error = std / np.sqrt(n)
    alpha = (1 - CONFIDENCE) / num_tests
    direction = stdtr(n - 1, abs(mean) / error - stdtrit(n - 1, 1 - alpha / 2))
    bound = stdtrit(n - 1, 1 - alpha)
    equivalent = stdtr(n - 1, (margin - mean) / error - bound) + stdtr(n - 1, (margin + mean) / error - bound) - 1
    enough = np.flatnonzero(np.maximum(direction, equivalent) >= POWER)
    return int(n[enough[0]]) if enough.size else None
