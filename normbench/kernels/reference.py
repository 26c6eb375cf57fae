"""The formulas of `NormActSpec` in plain torch, for any float dtype: what the kernels are tested against."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from normbench.kernels.spec import NormActSpec

THRESHOLD_MARGIN = 1e-5
"""Distance from an activation's threshold, relative to the root mean square, within which rounding may decide."""


def norm_act(
    x: Tensor,
    spec: NormActSpec,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    extra: Tensor | None = None,
    statistics: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return the result of `kernels.norm_act`; `statistics` (mean, variance; each ``(C,)``) replace those of `x`."""
    mean, var = moments(x, spec)
    if statistics is not None:
        mean, var = (statistic[:, None, None] for statistic in statistics)
    scale, shift = per_channel(weight, 1.0), per_channel(bias, 0.0)
    rstd = torch.rsqrt(var + spec.eps)
    if spec.activation == "swish":
        return x * torch.sigmoid(per_channel(extra, 1.0) * x) * rstd * scale + shift
    y = (x - mean) * rstd * scale + shift
    if spec.activation == "relu":
        return y.relu()
    if spec.activation == "gelu":
        return functional.gelu(y)
    return torch.maximum(y, torch.as_tensor(per_channel(extra, 0.0))) if spec.activation == "tlu" else y


def moments(x: Tensor, spec: NormActSpec) -> tuple[Tensor, Tensor]:
    """Return the mean (zero where not centered) and the second moment about it, broadcastable to `x`."""
    n, c, h, w = x.shape
    groups = spec.num_groups(c)
    grouped = x.reshape(n, groups, c // groups, h, w)
    axes = {"sample": (2, 3, 4), "batch": (0, 2, 3, 4), "position": (2,)}[spec.scope]
    mean = grouped.mean(axes, keepdim=True) if spec.centered else grouped.new_zeros((1,) * 5)
    var = (grouped - mean).square().mean(axes, keepdim=True)
    return _ungroup(mean, grouped), _ungroup(var, grouped)


def settled_gradient(
    grad: Tensor, x: Tensor, spec: NormActSpec, weight: Tensor | None, bias: Tensor | None, extra: Tensor | None
) -> Tensor:
    """Return the output gradient `grad` with 0 for elements within rounding of the threshold of ReLU or TLU.

    There, whether the gradient passes depends on the precision, so that kernel and formula may rightly differ.
    """
    if spec.activation not in ("relu", "tlu"):
        return grad
    weight, bias, extra = (None if p is None else p.detach().double() for p in (weight, bias, extra))
    before = norm_act(x.detach().double(), replace(spec, activation="none"), weight, bias)
    distance = (before - per_channel(extra, 0.0)).abs()
    return grad.masked_fill(distance < THRESHOLD_MARGIN * before.square().mean().sqrt(), 0.0)


def per_channel(parameter: Tensor | None, default: float) -> Tensor | float:
    """Return a ``(C,)`` parameter shaped to broadcast over ``(N, C, H, W)``, or its default."""
    return default if parameter is None else parameter[:, None, None]


def _ungroup(statistic: Tensor, grouped: Tensor) -> Tensor:
    """Shape a statistic of ``(N, G, C/G, H, W)`` to broadcast over ``(N, C, H, W)``."""
    return statistic.expand(-1, *grouped.shape[1:3], -1, -1).flatten(1, 2)
