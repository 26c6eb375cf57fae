"""Squashing functions in place of norms, without statistics: Dynamic Tanh and Dynamic erf."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from normbench.kernels.spec import Activation
from normbench.kernels.squashing import SquashSpec
from normbench.layers.precision import like_input
from normbench.norms.base import per_channel


class DynamicTanh(nn.Module):
    """Dynamic Tanh (Zhu et al. 2025, arXiv 2503.10622): ``y = tanh(alpha * x) * scale + shift``, one alpha a layer."""

    def __init__(self, num_channels: int, *, alpha: float = 0.5) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), float(alpha)))
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the squashed, scaled and shifted `x`."""
        squashed = torch.tanh(self.alpha * x)
        return like_input(torch.addcmul(per_channel(self.bias), squashed, per_channel(self.weight)), x)

    def kernel_spec(self, activation: Activation) -> SquashSpec:
        """Return which kernel computes the layer and the activation."""
        return SquashSpec(function="tanh", activation="relu" if activation == "relu" else "none")

    def kernel_arguments(self) -> dict[str, Any]:
        """Return the arguments of `kernels.norm_act` beside input and spec."""
        return {"weight": self.weight, "bias": self.bias, "alpha": self.alpha}


class DynamicErf(nn.Module):
    """Dynamic erf, "Derf" (Chen et al. 2025, arXiv 2512.10938): ``y = erf(alpha * x + s) * scale + shift``.

    alpha and s are one number per layer, s 0 at first.
    """

    def __init__(self, num_channels: int, *, alpha: float = 0.5) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), float(alpha)))
        self.s = nn.Parameter(torch.zeros(1))
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the squashed, scaled and shifted `x`."""
        squashed = torch.erf(self.alpha * x + self.s)
        return like_input(torch.addcmul(per_channel(self.bias), squashed, per_channel(self.weight)), x)

    def kernel_spec(self, activation: Activation) -> SquashSpec:
        """Return which kernel computes the layer and the activation."""
        return SquashSpec(function="erf", activation="relu" if activation == "relu" else "none")

    def kernel_arguments(self) -> dict[str, Any]:
        """Return the arguments of `kernels.norm_act` beside input and spec."""
        return {"weight": self.weight, "bias": self.bias, "alpha": self.alpha, "s": self.s}
