"""Norms of token sequences, ``(N, T, D)`` in and out: N sequences of T tokens with D features each.

The first are the image norms of the same formula, with a token for a position and a feature for a channel; the others
were made for transformers and have no image form here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from normbench.errors import ConfigError
from normbench.kernels import NormActSpec, SquashSpec
from normbench.kernels.spec import Activation
from normbench.layers.norm_act import TokenNorm
from normbench.layers.precision import require_several_values, widen
from normbench.norms.base import largest_divisor


class TokenLayerNorm(TokenNorm, nn.LayerNorm):
    """Layer Normalization of each token over its features (Ba, Kiros & Hinton 2016, arXiv 1607.06450)."""

    def __init__(self, d_model: int, *, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__(d_model, eps=eps, elementwise_affine=affine)

    def native(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized `x`; raises `ValueError` on a single feature."""
        require_several_values("ln", x.shape[-1], x)
        return F.layer_norm(widen(x), self.normalized_shape, self.weight, self.bias, self.eps).to(x.dtype)

    def kernel_spec(self, activation: Activation) -> NormActSpec:
        """Return which kernel computes the layer and the activation."""
        return NormActSpec(scope="position", activation=activation, eps=self.eps)

    def kernel_arguments(self) -> dict[str, Any]:
        """Return the arguments of `kernels.norm_act` beside input and spec."""
        return {"weight": self.weight, "bias": self.bias}


class TokenRMSNorm(TokenNorm):
    """RMSNorm of each token over its features (Zhang & Sennrich 2019, arXiv 1910.07467): a scale and no shift."""

    weight: nn.Parameter | None

    def __init__(self, d_model: int, *, eps: float = 1e-6, affine: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.register_parameter("weight", nn.Parameter(torch.ones(d_model)) if affine else None)

    def native(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` divided by the root mean square over its features."""
        return F.rms_norm(widen(x), x.shape[-1:], self.weight, self.eps).to(x.dtype)

    def kernel_spec(self, activation: Activation) -> NormActSpec:
        """Return which kernel computes the layer and the activation."""
        return NormActSpec(scope="position", centered=False, activation=activation, eps=self.eps)

    def kernel_arguments(self) -> dict[str, Any]:
        """Return the arguments of `kernels.norm_act` beside input and spec."""
        return {"weight": self.weight}


class TokenBatchNorm(TokenNorm, nn.BatchNorm1d):
    """Batch Normalization of each feature over all tokens of all sequences (Ioffe & Szegedy 2015, arXiv 1502.03167).

    The statistics know no padding: padded tokens count like any other, as in a transformer whose LayerNorm is replaced.
    """

    def __init__(self, d_model: int, *, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True) -> None:
        super().__init__(d_model, eps=eps, momentum=momentum, affine=affine)

    def native(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized `x`; raises `ValueError` in training on a single token."""
        return nn.BatchNorm1d.forward(self, widen(x).flatten(0, 1)).view(x.shape).to(x.dtype)

    def kernel_spec(self, activation: Activation) -> NormActSpec:
        """Return which kernel computes the layer and the activation."""
        return NormActSpec(scope="batch", activation=activation, eps=self.eps)

    def kernel_arguments(self) -> dict[str, Any]:
        """Return the arguments of `kernels.norm_act` beside input and spec."""
        return {
            "weight": self.weight,
            "bias": self.bias,
            "running_mean": self.running_mean,
            "running_var": self.running_var,
            "num_batches_tracked": self.num_batches_tracked,
            "momentum": self.momentum,
            "use_running": not self.training,
        }


class TokenDynamicTanh(TokenNorm):
    """Dynamic Tanh (Zhu et al. 2025, arXiv 2503.10622): ``y = tanh(alpha * x) * scale + shift``, one alpha a layer."""

    def __init__(self, d_model: int, *, alpha: float = 0.5) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), float(alpha)))
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def native(self, x: torch.Tensor) -> torch.Tensor:
        """Return the squashed, scaled and shifted `x`."""
        return torch.addcmul(self.bias, torch.tanh(self.alpha * x), self.weight).to(x.dtype)

    def kernel_spec(self, activation: Activation) -> SquashSpec:
        """Return which kernel computes the layer and the activation."""
        return SquashSpec(function="tanh", activation="relu" if activation == "relu" else "none")

    def kernel_arguments(self) -> dict[str, Any]:
        """Return the arguments of `kernels.squash` beside input and spec."""
        return {"weight": self.weight, "bias": self.bias, "alpha": self.alpha}


class TokenDynamicErf(TokenNorm):
    """Dynamic erf, "Derf" (Chen et al. 2025, arXiv 2512.10938): ``y = erf(alpha * x + s) * scale + shift``.

    alpha and s are one number per layer, s 0 at first.
    """

    def __init__(self, d_model: int, *, alpha: float = 0.5) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), float(alpha)))
        self.s = nn.Parameter(torch.zeros(1))
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def native(self, x: torch.Tensor) -> torch.Tensor:
        """Return the squashed, scaled and shifted `x`."""
        return torch.addcmul(self.bias, torch.erf(self.alpha * x + self.s), self.weight).to(x.dtype)

    def kernel_spec(self, activation: Activation) -> SquashSpec:
        """Return which kernel computes the layer and the activation."""
        return SquashSpec(function="erf", activation="relu" if activation == "relu" else "none")

    def kernel_arguments(self) -> dict[str, Any]:
        """Return the arguments of `kernels.squash` beside input and spec."""
        return {"weight": self.weight, "bias": self.bias, "alpha": self.alpha, "s": self.s}


def no_norm(d_model: int) -> nn.Module:
    """No normalization: the identity."""
    return nn.Identity()


class TokenScaleNorm(nn.Module):
    """ScaleNorm (Nguyen & Salazar 2019, arXiv 1910.05895): ``y = g * x / |x|``, one learned length g a layer.

    g is ``sqrt(D)`` at first, as in the paper. A token shorter than `eps` is divided by `eps`.
    """

    def __init__(self, d_model: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.g = nn.Parameter(torch.full((1,), d_model**0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` with every token's length set to g."""
        return (F.normalize(widen(x), dim=-1, eps=self.eps) * self.g).to(x.dtype)


class TokenSeeDNorm(nn.Module):
    """SeeDNorm (Cai et al. 2025, arXiv 2510.22777): RMSNorm whose scale depends on the token.

    ``y = (tanh(x . b) * a + scale) * x / sqrt(mean square + eps)``, the mean over D. In `num_heads` slices of the
    features, each has its own dot product ``x . b``. a and scale are 1 and b is 0 at first, which is RMSNorm.
    """

    def __init__(self, d_model: int, *, num_heads: int | None = None, eps: float = 1e-6) -> None:
        super().__init__()
        if num_heads is not None and d_model % num_heads:
            allowed = ", ".join(str(heads) for heads in range(1, d_model + 1) if d_model % heads == 0)
            raise ConfigError(f"seednorm: num_heads={num_heads} does not divide {d_model} features. Allowed: {allowed}")
        self.num_heads = largest_divisor(d_model, at_most=8) if num_heads is None else num_heads
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.a = nn.Parameter(torch.ones(d_model))
        self.b = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` divided by its root mean square and rescaled."""
        wide = widen(x)
        slices = (wide * self.b).unflatten(-1, (self.num_heads, -1)).sum(-1, keepdim=True)  # (N, T, heads, 1)
        a = self.a.unflatten(-1, (self.num_heads, -1))
        scale = (torch.tanh(slices) * a).flatten(-2) + self.weight
        y: torch.Tensor = scale * F.rms_norm(wide, x.shape[-1:], eps=self.eps)
        return y.to(x.dtype)


class TokenBoundedTanh(nn.Module):
    """BHyT (Byun et al. 2026, arXiv 2601.09719): ``y = scale * tanh(c / (k * std + |mean|) * x)``.

    Mean and biased standard deviation run over the features of each token: by Chebyshev's inequality they bound the
    share of features that saturate. `strength` c and `width` k are fixed. This is the exact form; the paper's cheaper
    estimate of the deviation at every second place is left out.
    """

    def __init__(self, d_model: int, *, strength: float = 1.0, width: float = 10.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.strength, self.width, self.eps = strength, width, eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the squashed and scaled `x`; raises `ValueError` on a single feature."""
        require_several_values("bhyt", x.shape[-1], x)
        wide = widen(x)
        variance, mean = torch.var_mean(wide, dim=-1, correction=0, keepdim=True)
        bound = self.width * torch.sqrt(variance + self.eps) + mean.abs()
        return (torch.tanh(self.strength / bound * wide) * self.weight).to(x.dtype)
