"""Optimizers: which parameters decay, which learn at another rate, and how the state is kept and put back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn

from normbench.config.schema import TrainConfig
from normbench.engine.eager_optimizer import EagerOptimizer
from normbench.layers.hooks import learning_rate_factors
from normbench.layers.sites import norm_sites


class Optimizer(Protocol):
    """The methods that `EagerOptimizer`, `FlatOptimizer` and `Lookahead` have in common."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Return the groups of parameters with their settings."""

    @property
    def state(self) -> Mapping[Any, Any]:
        """Map each parameter to its tensors by name."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients."""

    def step(self) -> Any:
        """Update the parameters."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all parameters, by their positions."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state that `state_dict` returned."""


def parameter_groups(model: nn.Module, train: TrainConfig) -> list[dict[str, Any]]:
    """Return the groups of parameters that share `weight_decay` and `learning_rate_factor`.

    Parameters of two or more dimensions decay; others never do. The factor multiplies the scheduled rate.
    """
    factors = {**_norm_factors(model, train), **learning_rate_factors(model)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        decay = train.weight_decay if parameter.ndim >= 2 else 0.0
        groups[decay, factors.get(name, 1.0)].append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "learning_rate_factor": factor}
        for (decay, factor), parameters in groups.items()
    ]


def _norm_factors(model: nn.Module, train: TrainConfig) -> dict[str, float]:
    """Map the names of the norms' scales and shifts to the factors of their learning rate."""
    factors = {"weight": train.scale_rate, "bias": train.shift_rate}
    return {
        f"{site}.{name}": factors[kind]
        for site, module in norm_sites(model).items()
        for name, parameter in module.named_parameters()
        if (kind := name.rpartition(".")[2]) in factors and parameter.ndim == 1
    }


def build_optimizer(model: nn.Module, train: TrainConfig, *, capturable: bool) -> EagerOptimizer:
    """Return the optimizer of `model` for steps in torch's operations, one fused kernel for all parameters of a group.

    A group's `lr` is a tensor, so that a captured graph can change it.
    """
    device = next(model.parameters()).device
    groups = [
        {**group, "lr": torch.tensor(train.learning_rate * group["learning_rate_factor"], device=device)}
        for group in parameter_groups(model, train)
    ]
    return EagerOptimizer(groups, train, capturable=capturable)


class Snapshot:
    """The state of a model and its optimizer, to put back after warm-up steps have changed it.

    Putting back writes into the same tensors, because a captured graph refers to them.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._model = model
        self._optimizer = optimizer
        self._model_state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self._optimizer_state = {
            parameter: {name: value.clone() for name, value in state.items() if isinstance(value, torch.Tensor)}
            for parameter, state in optimizer.state.items()
        }

    @torch.no_grad()
    def restore(self) -> None:
        """Put the state back; optimizer state that did not exist then becomes zero, its initial value."""
        for name, tensor in self._model.state_dict().items():
            tensor.copy_(self._model_state[name])
        for parameter, state in self._optimizer.state.items():
            before = self._optimizer_state.get(parameter, {})
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    value.copy_(before[name]) if name in before else value.zero_()
        self._optimizer.zero_grad(set_to_none=True)
