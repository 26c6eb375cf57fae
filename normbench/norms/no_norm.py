"""No normalization, with or without the scale and shift of one."""

from __future__ import annotations

import torch
from torch import nn

from normbench.layers.precision import like_input, widen
from normbench.norms.base import AffineNorm


class ScaleAndShift(AffineNorm):
    """``y = x * scale + shift`` per channel: no normalization, but the parameters of one."""

    def __init__(self, num_channels: int) -> None:
        super().__init__(num_channels, eps=0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the scaled and shifted `x`."""
        return like_input(self.rescale(widen(x)), x)


def no_norm(num_channels: int, *, init: str = "default", affine: bool = False) -> nn.Module:
    """No normalization: the identity, or with `affine` a scale and a shift per channel.

    `init` is for the model, which reads it as `NormFactory.residual_init`: how a residual net starts without norms.
    """
    return ScaleAndShift(num_channels) if affine else nn.Identity()
