"""Convolutions whose weights are split into length and direction, or divided by their largest singular value."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from normbench.layers.conv2d import Conv2d
from normbench.layers.precision import widen, without_autocast

EPS = 1e-12
"""A length below which a vector is divided by this, as in torch's ``normalize``."""


class WeightNormConv2d(Conv2d):
    """Convolution with Weight Normalization (Salimans & Kingma 2016, arXiv 1602.07868): ``w = gain * v / |v|``.

    `weight` is v, whose length ``|v|`` runs over the inputs and the kernel of an output channel; `gain` has one number
    per output channel and starts as ``|v|``, so that the layer starts as the plain convolution. The paper's start from
    the statistics of a first batch is left out.
    """

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
        self.gain = nn.Parameter(torch.empty(out_channels))
        self.adopt_weight()

    @torch.no_grad()
    def adopt_weight(self) -> None:
        """Set the gain to the length of each output channel's weight."""
        self.gain.copy_(torch.linalg.vector_norm(self.weight, dim=(1, 2, 3)))

    def effective_weight(self) -> torch.Tensor:
        """Return the weight that the convolution uses, ``(out, in, kernel, kernel)``, in float32 or wider."""
        direction = F.normalize(widen(self.weight).flatten(1), dim=1, eps=EPS).view_as(self.weight)
        return direction * self.gain[:, None, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the convolution of `x` with the normalized weight."""
        y: torch.Tensor = self._conv_forward(x, self.effective_weight().to(self.weight.dtype), self.bias)
        return y


class SpectralNormConv2d(Conv2d):
    """Convolution with Spectral Normalization (Miyato et al. 2018, arXiv 1802.05957): ``w = weight / sigma``.

    sigma is the largest singular value of the weight as a matrix ``(out, in * kernel^2)``, estimated as ``u . W v``
    with one step of power iteration per forward pass in training, from where the last left u ``(out,)`` and v; both are
    constants to the gradient. Fifteen steps are taken whenever the weight is drawn, as torch does.
    """

    u: torch.Tensor
    v: torch.Tensor
    first_steps = 15

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
        self.register_buffer("u", F.normalize(torch.randn(out_channels), dim=0))
        self.register_buffer("v", torch.zeros(in_channels * kernel_size**2))
        self.adopt_weight()

    def adopt_weight(self) -> None:
        """Bring u and v close to the singular vectors of the weight."""
        for _ in range(self.first_steps):
            self._step()

    @torch.no_grad()
    def _step(self) -> None:
        matrix = self.weight.flatten(1).to(self.u.dtype)
        self.v.copy_(F.normalize(matrix.mT @ self.u, dim=0, eps=EPS))
        self.u.copy_(F.normalize(matrix @ self.v, dim=0, eps=EPS))

    def effective_weight(self) -> torch.Tensor:
        """Return the weight that the convolution uses, ``(out, in, kernel, kernel)``, in float32 or wider."""
        weight = widen(self.weight)
        u, v = self.u.clone(), self.v.clone()  # as the next forward pass changes them before a late backward
        sigma = torch.dot(u.to(weight.dtype), weight.flatten(1) @ v.to(weight.dtype))
        return weight / sigma.clamp(min=EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the convolution of `x` with the normalized weight; in training after a step of power iteration."""
        with without_autocast(x):  # products in bf16 would be too coarse for sigma
            if self.training:
                self._step()
            weight = self.effective_weight()
        y: torch.Tensor = self._conv_forward(x, weight.to(self.weight.dtype), self.bias)
        return y
