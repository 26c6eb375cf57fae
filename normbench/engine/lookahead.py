"""Slow weights beside `EagerOptimizer`; `FlatOptimizer` has them in its own kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from normbench.engine.eager_optimizer import EagerOptimizer

SLOW_WEIGHT = "slow_weight"
"""The name of a slow weight in an optimizer's state."""


class Lookahead:
    """An optimizer after some of whose steps the weights go back to slow ones (Zhang et al. 2019, arXiv 1907.08610).

    Then ``slow = decay * slow + (1 - decay) * weight``, and ``weight = slow``. Which steps these are is read on the
    device, so that one captured step serves for all.

    Args:
        optimizer: makes the steps.
        decays: float32 ``(steps,)`` on the parameters' device: the decay after each step, -1 where there is no update.
        num_steps: int64 scalar on the device: the steps done before the one that is being made.
    """

    def __init__(self, optimizer: EagerOptimizer, decays: Tensor, num_steps: Tensor) -> None:
        self._optimizer = optimizer
        self._decays, self._num_steps = decays, num_steps
        self._slow = {p: p.detach().clone() for group in optimizer.param_groups for p in group["params"]}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of parameters."""
        return self._optimizer.param_groups

    @property
    def state(self) -> Mapping[Any, dict[str, Any]]:
        """Map each parameter to its tensors by name."""
        return {p: {**self._optimizer.state.get(p, {}), SLOW_WEIGHT: slow} for p, slow in self._slow.items()}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients."""
        self._optimizer.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters, and the slow weights where it is time."""
        self._optimizer.step()
        decay = self._decays.index_select(0, self._num_steps.view(1)).squeeze()  # [...] would ask the host
        is_due = (decay >= 0).float()
        for weight, slow in self._slow.items():
            slow.lerp_(weight, is_due * (1 - decay))
            weight.lerp_(slow, is_due)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all parameters, by their positions."""
        return {**self._optimizer.state_dict(), SLOW_WEIGHT: list(self._slow.values())}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state that `state_dict` returned."""
        slow = state_dict[SLOW_WEIGHT]
        self._optimizer.load_state_dict({key: value for key, value in state_dict.items() if key != SLOW_WEIGHT})
        for place, value in zip(self._slow.values(), slow, strict=True):
            place.copy_(value)
