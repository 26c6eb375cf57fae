"""The optimizer of steps that run one by one: torch's fused kernels without torch's optimizers around them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from normbench.config.schema import TrainConfig

_BETAS = (0.9, 0.999)
_EPS = 1e-8


class EagerOptimizer:
    """Adam, AdamW or SGD with Nesterov's momentum: the same operations as those of torch's optimizers, the same state.

    No `torch.optim.Optimizer`, because making one imports torch's compiler, which takes a second or more.

    Args:
        groups: parameter groups with `params`, `weight_decay`, `learning_rate_factor`, and `lr`, a tensor on the
            parameters' device, so that a captured graph can change it.
        train: which optimizer, and its momentum.
        capturable: whether steps may be captured.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], train: TrainConfig, *, capturable: bool) -> None:
        memory = {"momentum": train.momentum} if train.optimizer == "sgd" else {"betas": _BETAS}
        self.param_groups = [{**group, **memory} for group in groups]
        self.state: defaultdict[Tensor, dict[str, Tensor]] = defaultdict(dict)
        self._name = train.optimizer
        self._capturable = capturable

    @property
    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, or set them to zero."""
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad = None if set_to_none else torch.zeros_like(parameter.grad)

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters that have a gradient."""
        update = self._update_sgd if self._name == "sgd" else self._update_adam
        for group in self.param_groups:
            update(group, {p: p.grad for p in group["params"] if p.grad is not None})

    def _update_sgd(self, group: dict[str, Any], gradients: dict[Tensor, Tensor]) -> None:
        buffers = [self.state[parameter].get("momentum_buffer") for parameter in gradients]
        momentum = group["momentum"]
        sgd(
            list(gradients), list(gradients.values()), buffers,
            fused=True, weight_decay=group["weight_decay"], momentum=momentum, lr=group["lr"],
            dampening=0.0, nesterov=momentum > 0, maximize=False,
        )  # fmt: skip
        for parameter, buffer in zip(gradients, buffers, strict=True):
            if buffer is not None:
                self.state[parameter]["momentum_buffer"] = buffer

    def _update_adam(self, group: dict[str, Any], gradients: dict[Tensor, Tensor]) -> None:
        states = [self.state[parameter] or self._begin(parameter) for parameter in gradients]
        averages, squares, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        beta1, beta2 = group["betas"]
        adam(
            list(gradients), list(gradients.values()), averages, squares, [], steps,
            fused=True, capturable=self._capturable, decoupled_weight_decay=self._name == "adamw",
            amsgrad=False, beta1=beta1, beta2=beta2, lr=group["lr"], weight_decay=group["weight_decay"], eps=_EPS,
            maximize=False,
        )  # fmt: skip

    def _begin(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return Adam's state of a parameter before its first step, which it has from now on."""
        moments = {name: torch.zeros_like(parameter, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}
        step = torch.zeros((), dtype=torch.float32, device=parameter.device)
        self.state[parameter] = {"step": step, **moments}
        return self.state[parameter]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all parameters, by their positions, and the settings of their groups, as torch does."""
        position = {id(parameter): number for number, parameter in enumerate(self._parameters)}
        groups = [{**group, "params": [position[id(p)] for p in group["params"]]} for group in self.param_groups]
        state = {position[id(parameter)]: dict(state) for parameter, state in self.state.items() if state}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state that `state_dict` returned, or one of torch's optimizers; groups keep their settings.

        Raises:
            ValueError: it is of other parameters.
        """
        sizes = [len(group["params"]) for group in state_dict["param_groups"]]
        if sizes != [len(group["params"]) for group in self.param_groups]:
            raise ValueError(f"groups of {sizes} parameters")
        for number, parameter in enumerate(self._parameters):
            if number in state_dict["state"]:
                self.state[parameter] = {
                    name: value.to(parameter.device, torch.float32 if name == "step" else parameter.dtype, copy=True)
                    for name, value in state_dict["state"][number].items()
                }
