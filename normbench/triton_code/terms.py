# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""The formulas of the Triton kernels, element by element: normalization, activation and their gradients."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def output(x, mean, scale, bias, extra, ACTIVATION: tl.constexpr):
    """Normalize and activate; all arguments broadcast to the tile, and ``scale = rstd * weight``."""
    if ACTIVATION == "swish":
        y = x * gate(x, extra) * scale + bias
    else:
        y = (x - mean) * scale + bias
        if ACTIVATION == "relu":
            y = tl.maximum(y, 0.0)
        elif ACTIVATION == "gelu":
            below, _ = normal(y)
            y *= below
        elif ACTIVATION == "tlu":
            y = tl.maximum(y, extra)
    return y


@triton.jit
def gate(x, extra):
    """Return the sigmoid of ``extra * x``; the factor of the power of two is per channel, not for each element."""
    return 1.0 / (1.0 + tl.exp2(x * (extra * -1.4426950408889634)))


@triton.jit
def normal(z):
    """Return the normal distribution's share below `z`, and its density at `z`, by one exponential.

    To 8e-8, which 16 bits do not show: Abramowitz & Stegun 1964, Handbook of Mathematical Functions, 7.1.26.
    """
    density = tl.exp2(z * z * -0.7213475204444817)  # 1 / (2 ln 2)
    t = 1.0 / (1.0 + 0.23164189 * tl.abs(z))
    series = 1.061405429 * t - 1.453152027
    series = (series * t + 1.421413741) * t - 0.284496736
    tail = 0.5 * (series * t + 0.254829592) * t * density
    return tl.where(z < 0, tail, 1.0 - tail), density * 0.3989422804014327


@triton.jit
def gradient_terms(x, dy, mean, scale, bias, extra, ACTIVATION: tl.constexpr):
    """Return the distance from the mean, the gradient at fixed statistics, and what bias, weight and extra sum up.

    Per-channel factors are left to the callers: `scale` for the gradient at fixed statistics and for extra's of the
    swish, rstd for weight's. Where the output equals the threshold, the threshold takes the gradient.
    """
    distance = x - mean
    if ACTIVATION == "swish":
        sigmoid = gate(x, extra)
        passed = dy * sigmoid
        to_bias = dy
        to_weight = passed * x
        bent = to_weight * (1.0 - sigmoid)
        direct = passed + extra * bent
        to_extra = bent * x
    else:
        direct = dy
        if ACTIVATION == "relu":
            direct = tl.where(distance * scale + bias > 0.0, dy, 0.0)
        elif ACTIVATION == "gelu":
            z = distance * scale + bias
            below, density = normal(z)
            direct = dy * (below + z * density)
        elif ACTIVATION == "tlu":
            direct = tl.where(distance * scale + bias > extra, dy, 0.0)
        to_bias = direct
        to_weight = direct * distance
        to_extra = dy - direct
    return distance, direct, to_bias, to_weight, to_extra


@triton.jit
def channel_sums(
    to_bias, to_weight, to_extra, rstd, scale, ACTIVATION: tl.constexpr, TERMS: tl.constexpr
):  # fmt: skip
    """Return the sums over a tile's rows of the gradients of bias, weight and (TERMS == 3) extra, per channel."""
    sum_bias = tl.sum(to_bias, axis=0)
    sum_extra = sum_bias
    if TERMS == 3:
        sum_extra = tl.sum(to_extra, axis=0)
        if ACTIVATION == "swish":
            sum_extra *= scale
    return sum_bias, tl.sum(to_weight, axis=0) * rstd, sum_extra
