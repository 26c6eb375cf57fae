"""The average of a network's weights over the ends of epochs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """The mean of the parameters after some epochs (Izmailov et al. 2018, arXiv 1803.05407).

    Buffers, running statistics among them, are not averaged: they stay those of the last epoch.
    """

    def __init__(self) -> None:
        self.count = 0
        self._means: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def add(self, model: nn.Module) -> None:
        """Take the parameters as they are now into the mean."""
        self.count += 1
        for name, parameter in model.named_parameters():
            if name in self._means:
                self._means[name].lerp_(parameter.float(), 1 / self.count)
            else:
                self._means[name] = parameter.detach().float().clone()

    @torch.no_grad()
    def applied_to(self, model: nn.Module) -> nn.Module:
        """Return a copy of `model` with the mean in place of its parameters."""
        averaged = copy.deepcopy(model)
        for name, parameter in averaged.named_parameters():
            parameter.copy_(self._means[name])
        return averaged

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs, for a checkpoint."""
        return {"count": self.count, "means": dict(self._means)}

    def load_state_dict(self, state: dict[str, Any], model: nn.Module) -> None:
        """Take over `state`, of a network like `model`, whose device the means go to.

        Raises:
            ValueError: it is of another network.
        """
        parameters = dict(model.named_parameters())
        if state["count"] and {name: mean.shape for name, mean in state["means"].items()} != {
            name: parameter.shape for name, parameter in parameters.items()
        }:
            raise ValueError("averaged weights of another network")
        self.count = state["count"]
        self._means = {name: mean.to(parameters[name].device) for name, mean in state["means"].items()}
