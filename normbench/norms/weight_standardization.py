"""Convolutions whose weights are standardized per output channel before use (``gn+ws``, ``none+sws``)."""

from __future__ import annotations

import math

import torch
from torch import nn

from normbench.errors import ConfigError
from normbench.kernels.standardization import Standardization
from normbench.layers.conv2d import Conv2d
from normbench.layers.precision import widen

RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))
"""1.7128586: restores unit variance behind a ReLU of a standard normal, whose variance is (1 - 1/pi) / 2.

The NFNet code has 1.7139588594 instead, 0.06 % more.
"""


class StandardizedConv2d(Conv2d):
    """Convolution with Weight Standardization (Qiao et al. 2019, arXiv 1903.10520).

    Each output channel's weight is ``(w - mean) / (std + eps)`` over its inputs and kernel. `std` is the unbiased one
    and eps, 1e-5, stands outside the root, as in the authors' PyTorch code.

    A training step may standardize the weights of all layers at once, and put them in the place of the buffer
    `standardized` while the network runs (`torch.func.functional_call`); the layer then uses it as it is.
    """

    eps = 1e-5
    standardization = Standardization(scaled=False, constant=eps)
    gain: nn.Parameter | None
    standardized: torch.Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        if in_channels * kernel_size**2 < 2:
            raise ConfigError(
                "weight standardization: a 1x1 convolution of one channel has a single weight, of no variance"
            )
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias)
        self.register_parameter("gain", None)
        self.register_buffer("standardized", None, persistent=False)

    def standardized_weight(self) -> torch.Tensor:
        """Return the weight that the convolution uses, ``(out, in, kernel, kernel)``, in float32 or wider."""
        weight = widen(self.weight)
        std, mean = torch.std_mean(weight, dim=(1, 2, 3), keepdim=True)
        return (weight - mean) / (std + self.eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the convolution of `x` with the standardized weight."""
        weight = self.standardized
        if weight is None:
            weight = self.standardized_weight().to(self.weight.dtype)
        y: torch.Tensor = self._conv_forward(x, weight, self.bias)
        return y


class ScaledStandardizedConv2d(StandardizedConv2d):
    """Convolution with Scaled Weight Standardization (Brock, De & Smith 2021, arXiv 2101.08692).

    Each output channel's weight is ``(w - mean) / sqrt(max(fan_in * var, 1e-4)) * gain * RELU_GAIN`` with a learned
    gain per output channel, 1 at first, and the biased variance: the output of a ReLU's signal has unit variance.
    """

    minimum_variance = 1e-4
    standardization = Standardization(scaled=True, constant=minimum_variance, factor=RELU_GAIN)
    gain: nn.Parameter

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias)
        self.gain = nn.Parameter(torch.ones(out_channels))

    def standardized_weight(self) -> torch.Tensor:
        """Return the weight that the convolution uses, ``(out, in, kernel, kernel)``, in float32 or wider."""
        weight = widen(self.weight)
        variance, mean = torch.var_mean(weight, dim=(1, 2, 3), correction=0, keepdim=True)
        fan_in = weight[0].numel()
        scale = torch.rsqrt((variance * fan_in).clamp(min=self.minimum_variance)) * RELU_GAIN
        return (weight - mean) * scale * self.gain[:, None, None, None]
