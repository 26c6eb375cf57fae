"""The optimizer of a captured step: all weights of a group in one piece of memory, updated by one kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normbench.config import TrainConfig

_ALIGNMENT = 64
"""Elements to which each tensor's place is rounded up, so that kernels can use their widest loads."""
_BETAS = (0.9, 0.999)
_EPS = 1e-8


@dataclass(frozen=True)
class _Flat:
    """The memory of one group."""

    weights: Tensor
    gradients: Tensor
    moments: tuple[Tensor, ...]
    working: Tensor | None


class FlatOptimizer(torch.optim.Optimizer):
    """Adam, AdamW or SGD with Nesterov's momentum; the same arithmetic as torch's, the same names of the state.

    Moves the parameters, without changing them, into memory of its own. `step` takes the gradients that
    `take_gradients` collected, and the learning rate of the step from the schedule on the device.

    Args:
        groups: parameter groups with `params`, `weight_decay` and `learning_rate_factor`.
        train: which optimizer, and its momentum.
        learning_rates: float32 ``(steps,)`` on the parameters' device.
        num_steps: int64 scalar on the device: the steps begun, this one included.
        working_dtype: also keep a copy of the weights in this dtype, which `working` returns.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        train: TrainConfig,
        learning_rates: Tensor,
        num_steps: Tensor,
        *,
        working_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(list(groups), {"weight_decay": 0.0, "learning_rate_factor": 1.0})
        self._train = train
        self._learning_rates = learning_rates
        self._num_steps = num_steps
        steps = torch.arange(1, len(learning_rates) + 1, dtype=torch.float64)
        corrections = torch.stack([1 - _BETAS[0] ** steps, (1 - _BETAS[1] ** steps).sqrt()], dim=1)
        self._corrections = corrections.to(learning_rates.device, torch.float32)
        # Each parameter's place in its group's memory.
        self._gradient_views: dict[nn.Parameter, Tensor] = {}
        self._working_views: dict[nn.Parameter, Tensor] = {}
        self._flats = [self._flatten(group["params"], working_dtype) for group in self.param_groups]

    def _flatten(self, parameters: Sequence[nn.Parameter], working_dtype: torch.dtype | None) -> _Flat:
        starts, count = [], 0
        for parameter in parameters:
            starts.append(count)
            count += math.ceil(parameter.numel() / _ALIGNMENT) * _ALIGNMENT
        names = ("momentum_buffer",) if self._train.optimizer == "sgd" else ("exp_avg", "exp_avg_sq")
        weights, gradients, *moments = (parameters[0].new_zeros(count) for _ in range(2 + len(names)))
        working = None if working_dtype is None else weights.to(working_dtype)
        for parameter, start in zip(parameters, starts, strict=True):
            view = _view(weights, parameter, start)
            view.copy_(parameter.detach())
            parameter.data = view
            self._gradient_views[parameter] = _view(gradients, parameter, start)
            if working is not None:
                self._working_views[parameter] = _view(working, parameter, start)
            self.state[parameter] = {n: _view(m, parameter, start) for n, m in zip(names, moments, strict=True)}
        return _Flat(weights, gradients, tuple(moments), working)

    def working(self, parameter: nn.Parameter) -> Tensor:
        """Return the copy of `parameter` in the working dtype; `step` and `refresh` keep it up to date."""
        return self._working_views[parameter]

    def refresh(self) -> None:
        """Copy the weights to the working copies: needed after anything but `step` has changed them."""
        for flat in self._flats:
            if flat.working is not None:
                flat.working.copy_(flat.weights)

    def take_gradients(self, gradients: Sequence[tuple[nn.Parameter, Tensor | None]]) -> None:
        """Copy the gradients to where `step` reads them, in float32; None stands for zero."""
        by_dtype: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
        for parameter, gradient in gradients:
            place = self._gradient_views[parameter]
            if gradient is None:
                place.zero_()
            elif gradient.stride() != place.stride():  # one such pair would slow all others down
                place.copy_(gradient)
            else:
                by_dtype.setdefault(gradient.dtype, []).append((place, gradient))
        for pairs in by_dtype.values():
            torch._foreach_copy_([place for place, _ in pairs], [gradient for _, gradient in pairs])

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the weights, their working copies and the state."""
        from normbench.kernels.step import update_adam, update_sgd

        assert closure is None
        for group, flat in zip(self.param_groups, self._flats, strict=True):
            rate_factor, weight_decay = group["learning_rate_factor"], group["weight_decay"]
            if self._train.optimizer == "sgd":
                update_sgd(
                    flat.weights, flat.gradients, flat.moments[0], flat.working, self._learning_rates, self._num_steps,
                    rate_factor=rate_factor, weight_decay=weight_decay, momentum=self._train.momentum,
                )  # fmt: skip
            else:
                first, second = flat.moments
                update_adam(
                    flat.weights, flat.gradients, first, second, flat.working,
                    self._learning_rates, self._corrections, self._num_steps,
                    rate_factor=rate_factor, weight_decay=weight_decay, beta1=_BETAS[0], beta2=_BETAS[1], eps=_EPS,
                    decoupled=self._train.optimizer == "adamw",
                )  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of another run's optimizer, into the memory of this one."""
        ours = {parameter: dict(state) for parameter, state in self.state.items()}
        super().load_state_dict(state_dict)
        for parameter, state in ours.items():
            for name, place in state.items():
                place.copy_(self.state[parameter][name])
            self.state[parameter] = state


def _view(flat: Tensor, parameter: Tensor, start: int) -> Tensor:
    """Return the part of `flat` from `start` on in the shape and memory format of `parameter`."""
    return flat.as_strided(parameter.shape, parameter.stride(), flat.storage_offset() + start)
