"""Filter Response Normalization with its thresholded linear unit, which stands in for norm and ReLU."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from normbench.kernels.spec import Activation, NormActSpec
from normbench.layers.precision import like_input, widen
from normbench.norms.base import AffineNorm, per_channel

INITIAL_LEARNED_EPS = 1e-4


class FilterResponseNorm(AffineNorm):
    """Filter Response Normalization with TLU (Singh & Krishnan 2019, arXiv 1911.09737).

    ``y = max(x / sqrt(mean square over (H, W) + eps) * scale + shift, tau)`` with a threshold tau per channel, 0 at
    first. With `learnable_eps` the layer adds the absolute value of one learned number to eps, which the paper advises
    where images shrink to 1x1. Without `activation` there is no threshold.
    """

    def __init__(
        self, num_channels: int, *, learnable_eps: bool = False, eps: float = 1e-6, activation: bool = True
    ) -> None:
        super().__init__(num_channels, eps=eps)
        self.learned_eps = nn.Parameter(torch.tensor(INITIAL_LEARNED_EPS)) if learnable_eps else None
        self.tau = nn.Parameter(torch.zeros(num_channels)) if activation else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized and thresholded `x`."""
        mean_square = widen(x).square().mean(dim=(2, 3), keepdim=True)  # (N, C, 1, 1)
        eps = self.eps if self.learned_eps is None else self.eps + self.learned_eps.abs()
        y = self.rescale(x * torch.rsqrt(mean_square + eps))
        return like_input(y if self.tau is None else torch.maximum(y, per_channel(self.tau)), x)

    def kernel_spec(self, activation: Activation) -> NormActSpec | None:
        """Return which kernel computes the layer; none does with a learned eps or an activation of the model's."""
        if activation != "none" or self.learned_eps is not None:
            return None
        own: Activation = "none" if self.tau is None else "tlu"
        return NormActSpec(scope="sample", groups=self.num_channels, centered=False, activation=own, eps=self.eps)

    def kernel_arguments(self) -> dict[str, Any]:
        """Return the arguments of `kernels.norm_act` beside input and spec."""
        return {**super().kernel_arguments(), "extra": self.tau}

    def extra_repr(self) -> str:
        """Return what `print(model)` shows in the layer's parentheses."""
        return f"{self.num_channels}, eps={self.eps}, learnable_eps={self.learned_eps is not None}"
