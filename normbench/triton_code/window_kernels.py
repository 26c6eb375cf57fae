# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Kernels for local response normalization: each value is damped by a window of channels at its position.

A tile holds all channels of BLOCK_R positions, so that a window's values are gathered from lanes of the tile.
"""

from __future__ import annotations

import triton
import triton.language as tl

from normbench.triton_code.position_kernels import offsets


@triton.jit
def window_sum(values, channel, channels, FIRST: tl.constexpr, SIZE: tl.constexpr, BLOCK_R, BLOCK_C):
    """Return in each lane the sum of SIZE lanes, from FIRST beside it on; lanes beyond the channels count as 0."""
    total = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    for step in tl.static_range(SIZE):
        lane = channel + (FIRST + step)
        inside = (lane >= 0) & (lane < channels)
        index = tl.broadcast_to(tl.where(inside, lane, 0)[None, :], (BLOCK_R, BLOCK_C))
        total += tl.where(inside[None, :], tl.gather(values, index, 1), 0.0)
    return total


@triton.jit
def damping(value, channel, channels, alpha, beta, k, SIZE: tl.constexpr, BLOCK_R, BLOCK_C):
    """Return ``divisor = k + alpha / size * sum of squares`` over the window, and ``divisor ** -beta``."""
    squares = window_sum(value * value, channel, channels, -(SIZE // 2), SIZE, BLOCK_R, BLOCK_C)
    divisor = k + alpha / SIZE * squares
    return divisor, tl.exp2(-beta * tl.log2(divisor))


@triton.jit
def window_forward(
    x, y, alpha, beta, k, positions, rows, channels,
    SIZE: tl.constexpr, RELU: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Compute BLOCK_R positions; `positions` counts those of all samples, `rows` those of one."""
    channel = tl.arange(0, BLOCK_C)
    position = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    at = offsets(position, channel, rows, channels, CHANNELS_LAST)
    inside = (position < positions)[:, None] & (channel < channels)[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    _, damped = damping(value, channel, channels, alpha, beta, k, SIZE, BLOCK_R, BLOCK_C)
    result = value * damped
    if RELU:
        result = tl.maximum(result, 0.0)
    tl.store(y + at, result, mask=inside)


@triton.jit
def window_backward(
    x, dy, dx, alpha, beta, k, positions, rows, channels,
    SIZE: tl.constexpr, RELU: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Compute dx of BLOCK_R positions: each channel's own share, and those of the windows that it is in."""
    channel = tl.arange(0, BLOCK_C)
    position = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    at = offsets(position, channel, rows, channels, CHANNELS_LAST)
    inside = (position < positions)[:, None] & (channel < channels)[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
    if RELU:
        grad = tl.where(value > 0.0, grad, 0.0)
    divisor, damped = damping(value, channel, channels, alpha, beta, k, SIZE, BLOCK_R, BLOCK_C)
    direct = grad * damped
    shares = window_sum(
        direct * value / divisor, channel, channels, SIZE // 2 - SIZE + 1, SIZE, BLOCK_R, BLOCK_C
    )  # fmt: skip
    tl.store(dx + at, direct - (2.0 * alpha * beta / SIZE) * value * shares, mask=inside)
