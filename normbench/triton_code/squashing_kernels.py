# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Kernels for squashing functions in place of norms: tanh and erf of ``alpha * x + s``, element by element.

The backward pass leaves each program's shares of the parameters' gradients, which a last launch sums in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from normbench.triton_code.position_kernels import offsets
from normbench.triton_code.tiles import merge_parts


@triton.jit
def squash_forward(
    x, y, weight, bias, alpha, s, positions, rows, channels,
    CHANNELS_LAST: tl.constexpr, FUNCTION: tl.constexpr, ACTIVATION: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Compute BLOCK_R positions of BLOCK_C channels; `positions` counts those of all samples, `rows` those of one."""
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    valid = channel < channels
    position = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    at = offsets(position, channel, rows, channels, CHANNELS_LAST)
    inside = (position < positions)[:, None] & valid[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + channel, mask=valid, other=0.0)[None, :]
    b = tl.load(bias + channel, mask=valid, other=0.0)[None, :]
    scale, shift = load_scalars(alpha, s)
    squashed, _ = squash(scale * value + shift, FUNCTION)
    result = squashed * w + b
    if ACTIVATION == "relu":
        result = tl.maximum(result, 0.0)
    tl.store(y + at, result, mask=inside)


@triton.jit
def squash_backward(
    x, dy, dx, weight, bias, alpha, s, shares, scalar_shares, positions, rows, channels,
    CHANNELS_LAST: tl.constexpr, FUNCTION: tl.constexpr, ACTIVATION: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Compute dx of every num_programs-th tile of BLOCK_C channels, and this program's shares of the gradients.

    `shares` ``(programs, 2, channels)`` are those of bias and weight, `scalar_shares` ``(programs * blocks, 2)`` those
    of alpha and s.
    """
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    valid = channel < channels
    w = tl.load(weight + channel, mask=valid, other=0.0)[None, :]
    b = tl.load(bias + channel, mask=valid, other=0.0)[None, :]
    scale, shift = load_scalars(alpha, s)
    sum_bias = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    sum_weight = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    sum_alpha = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    sum_s = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    for start in tl.range(
        tl.program_id(0) * BLOCK_R, positions, tl.num_programs(0) * BLOCK_R, num_stages=STAGES
    ):  # fmt: skip
        position = start + tl.arange(0, BLOCK_R)
        at = offsets(position, channel, rows, channels, CHANNELS_LAST)
        inside = (position < positions)[:, None] & valid[None, :]
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        squashed, slope = squash(scale * value + shift, FUNCTION)
        if ACTIVATION == "relu":
            grad = tl.where(squashed * w + b > 0.0, grad, 0.0)
        sum_bias += grad
        sum_weight += grad * squashed
        inner = grad * slope * w  # the gradient of alpha * x + s
        sum_alpha += inner * value
        if s is not None:
            sum_s += inner
        tl.store(dx + at, inner * scale, mask=inside)
    at_shares = shares + tl.program_id(0) * 2 * channels + channel
    tl.store(at_shares, tl.sum(sum_bias, axis=0), mask=valid)
    tl.store(at_shares + channels, tl.sum(sum_weight, axis=0), mask=valid)
    program = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    tl.store(scalar_shares + 2 * program, tl.sum(tl.sum(sum_alpha, axis=0), axis=0))
    if s is not None:
        tl.store(scalar_shares + 2 * program + 1, tl.sum(tl.sum(sum_s, axis=0), axis=0))


@triton.jit(do_not_specialize=["parts", "columns", "scalar_parts", "column_programs"])
def add_squash_shares(
    shares, scalar_shares, sums, dalpha, ds, parts, columns, scalar_parts, column_programs,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sum all shares over the programs, always in the same order; the last program here sums those of alpha and s."""
    if tl.program_id(0) < column_programs:
        column = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
        valid = column < columns
        tl.store(sums + column, merge_parts(shares, 0, parts, columns, column, valid, BLOCK_P, BLOCK_C), mask=valid)
    else:
        scalar = tl.arange(0, 2)
        there = scalar < (1 if ds is None else 2)
        total = merge_parts(scalar_shares, 0, scalar_parts, 2, scalar, there, BLOCK_P, 2)
        tl.store(dalpha + scalar, total, mask=scalar == 0)
        if ds is not None:
            tl.store(ds + scalar - 1, total, mask=scalar == 1)


@triton.jit
def load_scalars(alpha, s):
    """Return alpha, and s, which is 0 where there is none."""
    shift = 0.0
    if s is not None:
        shift = tl.load(s)
    return tl.load(alpha), shift


@triton.jit
def squash(u, FUNCTION: tl.constexpr):
    """Return the function of `u` and its derivative there, each with an absolute error below 4e-7.

    erf by formula 7.1.26 of Abramowitz and Stegun's Handbook of Mathematical Functions (1964), whose own error is
    1.5e-7: a tenth of the instructions of a relatively exact one, and its exponential is the derivative's, too.
    """
    if FUNCTION == "tanh":
        e = tl.exp(-2.0 * tl.abs(u))
        value = (1.0 - e) / (1.0 + e)
        value = tl.where(u < 0.0, -value, value)
        slope = 1.0 - value * value
    else:
        bell = tl.exp(-u * u)
        t = 1.0 / (1.0 + 0.3275911 * tl.abs(u))
        tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
        value = 1.0 - tail * bell
        value = tl.where(u < 0.0, -value, value)
        slope = 1.1283791670955126 * bell
    return value, slope
