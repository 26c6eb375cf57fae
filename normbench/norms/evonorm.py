"""EvoNorm (Liu, Brock, Simonyan & Le 2020, arXiv 2004.02967): norm and activation found as one by search.

The B series uses batch statistics, the S series groups of channels of one sample. In all of them the activation sees
`x` as it came, not normalized. Without `activation` a layer is its scale and shift alone, as in the authors' code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from normbench.kernels.spec import Activation, Formula, MomentsSpec, NormActSpec
from normbench.layers.precision import (
    group_channels,
    like_input,
    require_several_values,
    ungroup_statistic,
    widen,
)
from normbench.norms.base import (
    AffineNorm,
    largest_divisor,
    per_channel,
    pool_moments,
    resolve_groups,
    update_average,
)


class EvoNormB(AffineNorm):
    """EvoNorm-B0, B1 or B2: ``y = x / max(sqrt(batch_var + eps), other) * scale + shift``.

    `other` is, with variance and mean square over (H, W) of one sample: B0 ``v1 * x + sqrt(var + eps)`` with a learned
    v1 per channel, 1 at first; B1 ``(x + 1) * sqrt(mean_square + eps)``; B2 ``sqrt(mean_square + eps) - x``. The
    running average keeps the biased variance, as the authors' code does.
    """

    running_var: torch.Tensor

    def __init__(
        self, num_channels: int, *, version: int, eps: float = 1e-5, momentum: float = 0.1, activation: bool = True
    ) -> None:
        super().__init__(num_channels, eps=eps)
        self.version = version
        self.momentum = momentum
        self.activation = activation
        self.v1 = nn.Parameter(torch.ones(num_channels)) if activation and version == 0 else None
        if activation:
            self.register_buffer("running_var", torch.ones(num_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized and activated `x`; raises `ValueError` in training on one value per channel."""
        if not self.activation:
            return like_input(self.rescale(widen(x)), x)
        variance, mean = torch.var_mean(widen(x), dim=(2, 3), correction=0, keepdim=True)  # (N, C, 1, 1)
        if self.training:
            require_several_values(f"evonorm_b{self.version}", x.numel() // self.num_channels, x)
            _, batch_variance = pool_moments(mean, variance, dim=0)
            update_average(self.running_var, batch_variance, self.momentum)
        else:
            batch_variance = per_channel(self.running_var)
        batch_deviation = torch.sqrt(batch_variance + self.eps)
        if self.v1 is not None:
            other = per_channel(self.v1) * x + torch.sqrt(variance + self.eps)
        else:
            root_mean_square = torch.sqrt(variance + mean.square() + self.eps)
            other = (x + 1) * root_mean_square if self.version == 1 else root_mean_square - x
        return like_input(self.rescale(x / torch.maximum(batch_deviation, other)), x)

    def kernel_spec(self, activation: Activation) -> MomentsSpec | None:
        """Return which kernel computes the layer; none does without its own activation or with one of the model's."""
        if activation != "none" or not self.activation:
            return None
        formulas: dict[int, Formula] = {0: "evonorm_b0", 1: "evonorm_b1", 2: "evonorm_b2"}
        return MomentsSpec(formula=formulas[self.version], activation="none", eps=self.eps)

    def kernel_arguments(self) -> dict[str, Any]:
        """Return the arguments of `kernels.norm_act` beside input and spec."""
        return {
            **super().kernel_arguments(),
            "extra": self.v1,
            "running_var": self.running_var,
            "momentum": self.momentum,
            "use_running": not self.training,
        }


class EvoNormS(AffineNorm):
    """EvoNorm-S0, S1 or S2: ``y = x * sigmoid(v1 * x) / deviation * scale + shift``.

    `deviation` is, over (C/G, H, W), ``sqrt(var + eps)`` for S0 and S1 and ``sqrt(mean_square + eps)`` for S2. v1 is
    learned per channel for S0, 1 at first, and is 1 for S1 and S2. Groups: 32, or the largest divisor of the channels
    below that, as in the authors' code.
    """

    def __init__(
        self,
        num_channels: int,
        *,
        version: int,
        groups: int | None = None,
        group_size: int | None = None,
        eps: float = 1e-5,
        activation: bool = True,
    ) -> None:
        super().__init__(num_channels, eps=eps)
        self.name = f"evonorm_s{version}"
        self.version = version
        self.activation = activation
        self.num_groups = resolve_groups(
            self.name, num_channels, groups, group_size, default=largest_divisor(num_channels)
        )
        self.v1 = nn.Parameter(torch.ones(num_channels)) if activation and version == 0 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized and activated `x`; raises `ValueError` where a group has a single value."""
        values = widen(x)
        if not self.activation:
            return like_input(self.rescale(values), x)
        require_several_values(self.name, x[0].numel() // self.num_groups, x)
        grouped = group_channels(values, self.num_groups)
        if self.version == 2:
            squared_deviation = grouped.square().mean(dim=(2, 3, 4), keepdim=True)
        else:
            squared_deviation = grouped.var(dim=(2, 3, 4), correction=0, keepdim=True)
        inverse = torch.rsqrt(ungroup_statistic(squared_deviation, grouped.shape[2]) + self.eps)  # (N, C, 1, 1)
        activated = F.silu(values) if self.v1 is None else values * torch.sigmoid(per_channel(self.v1) * values)
        return like_input(self.rescale(activated * inverse), x)

    def kernel_spec(self, activation: Activation) -> NormActSpec | None:
        """Return which kernel computes the layer; none does without its own activation or with one of the model's."""
        if activation != "none" or not self.activation:
            return None
        centered = self.version != 2
        return NormActSpec(scope="sample", groups=self.num_groups, centered=centered, activation="swish", eps=self.eps)

    def kernel_arguments(self) -> dict[str, Any]:
        """Return the arguments of `kernels.norm_act` beside input and spec."""
        return {**super().kernel_arguments(), "extra": self.v1}

    def extra_repr(self) -> str:
        """Return what `print(model)` shows in the layer's parentheses."""
        return f"{self.num_channels}, eps={self.eps}, num_groups={self.num_groups}"
