# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Kernels for statistics over the channels of each position: scope ``position``.

A tile holds all channels of BLOCK_R positions, so its statistics never leave the registers: nothing but the input is
kept for the backward pass, which computes them again.
"""

from __future__ import annotations

import triton
import triton.language as tl

from normbench.triton_code.terms import gradient_terms, output
from normbench.triton_code.tiles import load_parameter


@triton.jit
def position_forward(
    x, y, weight, bias, eps, positions, rows, channels,
    CHANNELS_LAST: tl.constexpr, CENTERED: tl.constexpr, ACTIVATION: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Compute BLOCK_R positions; `positions` counts those of all samples, `rows` those of one."""
    channel = tl.arange(0, BLOCK_C)
    valid = channel < channels
    position = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    at = offsets(position, channel, rows, channels, CHANNELS_LAST)
    inside = (position < positions)[:, None] & valid[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    mean, rstd = statistics(value, inside, channels, eps, CENTERED, BLOCK_R)
    w = load_parameter(weight, channel, valid, 1.0, BLOCK_C)[None, :]
    b = load_parameter(bias, channel, valid, 0.0, BLOCK_C)[None, :]
    tl.store(y + at, output(value, mean, rstd * w, b, 0.0, ACTIVATION), mask=inside)


@triton.jit
def position_backward(
    x, dy, dx, weight, bias, sums, eps, positions, rows, channels,
    CHANNELS_LAST: tl.constexpr, CENTERED: tl.constexpr, ACTIVATION: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Compute dx of every num_programs-th tile, and this program's share of the parameters' gradients in `sums`."""
    channel = tl.arange(0, BLOCK_C)
    valid = channel < channels
    w = load_parameter(weight, channel, valid, 1.0, BLOCK_C)[None, :]
    b = load_parameter(bias, channel, valid, 0.0, BLOCK_C)[None, :]
    sum_bias = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    sum_weight = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    for start in tl.range(
        tl.program_id(0) * BLOCK_R, positions, tl.num_programs(0) * BLOCK_R, num_stages=STAGES
    ):  # fmt: skip
        position = start + tl.arange(0, BLOCK_R)
        at = offsets(position, channel, rows, channels, CHANNELS_LAST)
        inside = (position < positions)[:, None] & valid[None, :]
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        mean, rstd = statistics(value, inside, channels, eps, CENTERED, BLOCK_R)
        distance, direct, to_bias, to_weight, _ = gradient_terms(value, grad, mean, rstd * w, b, 0.0, ACTIVATION)
        sum_bias += to_bias
        sum_weight += to_weight * rstd
        direct *= w
        d = direct - distance * (rstd * rstd * (tl.sum(direct * distance, axis=1) / channels)[:, None])
        if CENTERED:
            d -= (tl.sum(direct, axis=1) / channels)[:, None]
        tl.store(dx + at, d * rstd, mask=inside)
    if sums is not None:
        at_sums = sums + tl.program_id(0) * 2 * channels + channel
        tl.store(at_sums, tl.sum(sum_bias, axis=0), mask=valid)
        tl.store(at_sums + channels, tl.sum(sum_weight, axis=0), mask=valid)


@triton.jit
def offsets(position, channel, rows, channels, CHANNELS_LAST: tl.constexpr):
    """Return the offset of each (position, channel)."""
    if CHANNELS_LAST:
        at = position[:, None] * channels + channel[None, :]
    else:
        at = (position // rows * rows * channels + position % rows)[:, None] + channel[None, :] * rows
    return at


@triton.jit
def statistics(value, inside, channels, eps, CENTERED: tl.constexpr, BLOCK_R: tl.constexpr):
    """Return mean and 1 / sqrt(var + eps) of each position, ``(BLOCK_R, 1)``."""
    mean = tl.zeros([BLOCK_R, 1], tl.float32)
    if CENTERED:
        mean = (tl.sum(value, axis=1) / channels)[:, None]
    distance = tl.where(inside, value - mean, 0.0)
    return mean, tl.rsqrt(tl.sum(distance * distance, axis=1) / channels + eps)[:, None]
