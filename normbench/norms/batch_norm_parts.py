"""Batch Normalization with parts of it left out or replaced, to see which of them matters."""

from __future__ import annotations

import math

import torch
from torch import nn

from normbench.errors import ConfigError
from normbench.layers.precision import like_input, require_several_values, widen
from normbench.norms.base import AffineNorm, per_channel, update_average
from normbench.norms.batch_norm import BatchNorm

L1_FACTOR = math.sqrt(math.pi / 2)
"""1.2533: the standard deviation of a normal variable over its mean absolute deviation."""


def batch_norm(
    num_channels: int,
    *,
    eps: float = 1e-5,
    momentum: float = 0.1,
    affine: bool = True,
    center: bool = True,
    deviation: str = "std",
    learn_scale: bool = True,
) -> nn.Module:
    """Return `BatchNorm`, or `PartialBatchNorm` where a part of it is left out or replaced.

    Raises:
        ConfigError: nothing would be left: neither centering nor division.
    """
    if center and deviation == "std" and (learn_scale or not affine):
        return BatchNorm(num_channels, eps=eps, momentum=momentum, affine=affine)
    return PartialBatchNorm(
        num_channels, eps=eps, momentum=momentum, affine=affine,
        center=center, deviation=deviation, learn_scale=learn_scale,
    )  # fmt: skip


class PartialBatchNorm(AffineNorm):
    """Batch Normalization (arXiv 1502.03167) without some of its parts: ``y = (x - mean) / deviation * scale + shift``.

    Mean and deviation run over (N, H, W); evaluation uses their running averages, of what training divides by.

    - Without `center` the mean is 0, also in the deviation: Variance Normalization (Daneshmand et al. 2020, arXiv
      2003.01652).
    - `deviation` ``std`` is ``sqrt(mean square + eps)``; ``l1`` is ``sqrt(pi / 2) * mean absolute + eps``, which is the
      same for a normal variable (Hoffer et al. 2018, arXiv 1803.01814); ``none`` is 1: centering alone.
    - Without `learn_scale` the scale is 1 and only the shift is learned.
    """

    running_mean: torch.Tensor
    running_deviation: torch.Tensor

    def __init__(
        self,
        num_channels: int,
        *,
        eps: float,
        momentum: float,
        affine: bool,
        center: bool,
        deviation: str,
        learn_scale: bool,
    ) -> None:
        if not center and deviation == "none":
            raise ConfigError("bn: center=false with deviation='none' leaves nothing of it. Use the norm none")
        super().__init__(num_channels, eps=eps, affine=affine)
        if not learn_scale:
            self.register_parameter("weight", None)
        self.momentum, self.center, self.deviation = momentum, center, deviation
        self.register_buffer("running_mean", torch.zeros(num_channels) if center else None)
        self.register_buffer("running_deviation", None if deviation == "none" else torch.ones(num_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized `x`; raises `ValueError` in training on one value per channel."""
        y = x - self._average("running_mean", widen(x)) if self.center else widen(x)
        if self.deviation != "none":
            y = y / self._average("running_deviation", y)
        return like_input(self.rescale(y), x)

    def _average(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Return the batch's mean or deviation of `x` in training, ``(1, C, 1, 1)``, and otherwise the running one."""
        running = getattr(self, name)
        if not self.training:
            return per_channel(running)
        require_several_values("bn", x.numel() // self.num_channels, x)
        axes = (0, 2, 3)
        if name == "running_mean":
            value = x.mean(axes, keepdim=True)
        elif self.deviation == "std":
            value = torch.sqrt(x.square().mean(axes, keepdim=True) + self.eps)
        else:
            value = L1_FACTOR * x.abs().mean(axes, keepdim=True) + self.eps
        update_average(running, value, self.momentum)
        return value

    def rescale(self, normalized: torch.Tensor) -> torch.Tensor:
        """Return ``normalized * weight + bias``, as far as the layer has them."""
        y = super().rescale(normalized)
        return y + per_channel(self.bias) if self.weight is None and self.bias is not None else y

    def extra_repr(self) -> str:
        """Return what `print(model)` shows in the layer's parentheses."""
        return f"{super().extra_repr()}, center={self.center}, deviation={self.deviation}"
