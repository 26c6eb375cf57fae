"""Layers without statistics of the batch or the image: pointwise functions, Local Response Normalization, none."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from normbench.layers.precision import like_input, widen
from normbench.norms.affine import AffineNorm, per_channel


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


class DynamicErf(nn.Module):
    """Dynamic erf, "Derf" (Chen et al. 2025, arXiv 2512.10938): ``y = erf(alpha * x + s) * scale + shift``.

    alpha and s are one number a layer, s 0 at first.
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


class LocalResponseNorm(nn.Module):
    """Local Response Normalization (Krizhevsky, Sutskever & Hinton 2012).

    ``y = x / (k + alpha / size * sum of squares over `size` neighboring channels) ** beta``, zeros beyond the first and
    last channel. The division of alpha by `size` is PyTorch's convention.
    """

    def __init__(
        self, num_channels: int, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
    ) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` damped by its neighboring channels."""
        return like_input(F.local_response_norm(widen(x), self.size, self.alpha, self.beta, self.k), x)

    def extra_repr(self) -> str:
        """Say what `print(model)` shows of the layer."""
        return f"{self.num_channels}, size={self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


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
