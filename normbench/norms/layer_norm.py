"""Norms of one sample over its channels: at each position, or over the whole of `(C, H, W)`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from normbench.kernels.spec import Activation, NormActSpec, PixelSpec
from normbench.layers.precision import like_input, require_several_values, widen
from normbench.norms.base import AffineNorm


class LayerNormCHW(nn.Module):
    """Layer Normalization (Ba, Kiros & Hinton 2016, arXiv 1607.06450) over (C, H, W), scale and shift per element.

    `size` is the ``(H, W)`` of the input: the scale and shift are ``(C, H, W)``, so the layer fits one resolution only.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, num_channels: int, *, size: tuple[int, int], eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.shape = (num_channels, *size)
        self.eps = eps
        self.register_parameter("weight", nn.Parameter(torch.ones(self.shape)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(self.shape)) if affine else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized `x`; raises `ValueError` where its shape is not the one the layer was built for."""
        if x.shape[1:] != self.shape:
            raise ValueError(f"ln_chw: built for (C, H, W) = {self.shape}, but the input is {tuple(x.shape)}")
        require_several_values("ln_chw", x[0].numel(), x)
        variance, mean = torch.var_mean(widen(x), dim=(1, 2, 3), correction=0, keepdim=True)  # (N, 1, 1, 1)
        y = (x - mean) * torch.rsqrt(variance + self.eps)
        if self.weight is not None and self.bias is not None:
            y = torch.addcmul(self.bias, y, self.weight)
        return like_input(y, x)

    def kernel_spec(self, activation: Activation) -> PixelSpec | None:
        """Return which kernel computes the layer and the activation."""
        if activation not in ("none", "relu"):
            return None
        return PixelSpec(shape=self.shape, activation=activation, eps=self.eps)

    def kernel_arguments(self) -> dict[str, Any]:
        """Return the arguments of `kernels.norm_act` beside input and spec."""
        return {"weight": self.weight, "bias": self.bias}

    def extra_repr(self) -> str:
        """Return what `print(model)` shows in the layer's parentheses."""
        return f"{self.shape}, eps={self.eps}, affine={self.weight is not None}"


class LayerNorm2d(AffineNorm):
    """Layer Normalization over the channels at each position, as in ConvNeXt (Liu et al. 2022, arXiv 2201.03545)."""

    def __init__(self, num_channels: int, *, name: str = "ln2d", eps: float = 1e-6, affine: bool = True) -> None:
        super().__init__(num_channels, eps=eps, affine=affine)
        self.name = name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized `x`; raises `ValueError` on a single channel."""
        require_several_values(self.name, x.shape[1], x)
        variance, mean = torch.var_mean(widen(x), dim=1, correction=0, keepdim=True)  # (N, 1, H, W)
        return self.normalize(x, mean, variance)

    def kernel_spec(self, activation: Activation) -> NormActSpec:
        """Return which kernel computes the layer and the activation."""
        return NormActSpec(scope="position", activation=activation, eps=self.eps)


def positional_norm(num_channels: int, *, eps: float = 1e-5) -> LayerNorm2d:
    """Positional Normalization (Li, Wu, Weinberger & Belongie 2019, arXiv 1907.04312): over C, nothing learned.

    The variance is the paper's, biased; the authors' code takes the unbiased one, ``C / (C - 1)`` times larger. This is
    the normalization alone, without the paper's moment shortcut, which hands mean and deviation to a later layer.
    """
    return LayerNorm2d(num_channels, name="pono", eps=eps, affine=False)


class RMSNorm2d(AffineNorm):
    """RMSNorm over the channels at each position (Zhang & Sennrich 2019, arXiv 1910.07467): a scale and no shift."""

    def __init__(self, num_channels: int, *, eps: float = 1e-6, affine: bool = True) -> None:
        super().__init__(num_channels, eps=eps, affine=affine, shift=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` divided by the root mean square over its channels."""
        return self.normalize(x, None, widen(x).square().mean(dim=1, keepdim=True))

    def kernel_spec(self, activation: Activation) -> NormActSpec:
        """Return which kernel computes the layer and the activation."""
        return NormActSpec(scope="position", centered=False, activation=activation, eps=self.eps)
