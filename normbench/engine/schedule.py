"""Learning-rate schedules: the rate of every step, known before the first."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch

from normbench.config.schema import LookaheadConfig

Schedule = Literal["constant", "cosine", "one_cycle"]

_DEFAULT_WARMUP: dict[Schedule, float] = {"constant": 0.0, "cosine": 0.0, "one_cycle": 0.3}


def learning_rates(
    schedule: Schedule, peak: float, num_steps: int, warmup_fraction: float | None = None
) -> torch.Tensor:
    """Return the learning rate of each step, ``(num_steps,)`` float32.

    With ``w = warmup_fraction * num_steps``, step `s` has ``peak * (s + 1) / w`` while ``s + 1 < w``, and then, with
    ``t = (s - w) / (num_steps - w)``: ``peak`` (constant), ``peak * (1 + cos(pi t)) / 2`` (cosine), or
    ``peak * (1 - t)`` (one_cycle).
    """
    warmup = (_DEFAULT_WARMUP[schedule] if warmup_fraction is None else warmup_fraction) * num_steps

    def rate(step: int) -> float:
        if step + 1 < warmup:
            return peak * (step + 1) / warmup
        done = max(0.0, step - warmup) / (num_steps - warmup)
        if schedule == "cosine":
            return peak * (1 + math.cos(math.pi * done)) / 2
        return peak * (1 - done) if schedule == "one_cycle" else peak

    # Four bytes per step; as a list of Python's numbers it would be 32. Python's cosine, so that the bits stay what
    # they were.
    return torch.from_numpy(np.fromiter(map(rate, range(num_steps)), np.float32, num_steps))


def lookahead_decays(lookahead: LookaheadConfig, num_steps: int) -> torch.Tensor:
    """Return the share of the slow weights that stays after each step, ``(num_steps,)`` float32; -1 between updates.

    The updates are after the last step and every `every` steps before it; that after s of S steps has
    ``decay * (s / S) ** power``.
    """
    done = np.arange(1, num_steps + 1)
    shares = lookahead.decay * (done / num_steps) ** lookahead.power
    return torch.from_numpy(np.where((num_steps - done) % lookahead.every == 0, shares, -1).astype(np.float32))
