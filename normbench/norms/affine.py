"""The formula that nearly every norm ends in: ``y = (x - mean) / sqrt(variance + eps) * weight + bias``."""

from __future__ import annotations

import torch
from torch import nn

from normbench.layers.precision import like_input


class AffineNorm(nn.Module):
    """Base of the norms that end in the common formula; a subclass says what mean and variance are.

    `weight` (the scale) starts at 1 and `bias` (the shift) at 0, both ``(C,)``; both are None without `affine`.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, num_channels: int, *, eps: float, affine: bool = True, shift: bool = True) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.eps = eps
        self.register_parameter("weight", nn.Parameter(torch.ones(num_channels)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(num_channels)) if affine and shift else None)

    def normalize(self, x: torch.Tensor, mean: torch.Tensor | None, variance: torch.Tensor) -> torch.Tensor:
        """Return the common formula in the dtype and memory format of `x`.

        `mean` and `variance` broadcast against `x`, whose last three dimensions are ``(C, H, W)``. Without a mean, `x`
        is not centered and `variance` stands for the mean square.
        """
        centered = x if mean is None else x - mean
        return like_input(self.rescale(centered * torch.rsqrt(variance + self.eps)), x)

    def rescale(self, normalized: torch.Tensor) -> torch.Tensor:
        """Return ``normalized * weight + bias``, as far as the layer has them."""
        if self.weight is not None and self.bias is not None:
            return torch.addcmul(per_channel(self.bias), normalized, per_channel(self.weight))
        return normalized if self.weight is None else normalized * per_channel(self.weight)

    def extra_repr(self) -> str:
        """Say what `print(model)` shows of the layer."""
        return f"{self.num_channels}, eps={self.eps}, affine={self.weight is not None}"


def per_channel(values: torch.Tensor) -> torch.Tensor:
    """View ``(C,)`` as ``(C, 1, 1)``, which broadcasts against ``(N, C, H, W)``."""
    return values[:, None, None]
