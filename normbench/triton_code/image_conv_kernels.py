# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Kernels for a 3x3 convolution of images, of few channels: matrix products on the tensor cores.

A row is an output pixel, and its patch the 9 * CHANNELS values that it is computed from, gathered straight from the
images. Each value is a load of its own, but a thread has a row: its coordinates are computed once, all else is
constant, and a warp's 32 pixels are three or four lines of the cache, where all nine loads of a value but the first
find it. With four channels, one of them zero, a load could take a whole pixel, but patches of 36 would need twice the
matrix of 27.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows"])
def forward(
    images, weight, bias, y, rows, stride_out, stride_in, stride_y, stride_x,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, CHANNELS_OUT: tl.constexpr,
    RELU: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Convolve tiles of rows, in turn with the other programs; program_id(1) counts the blocks of output channels.

    A bias, if any, is added in float32.
    """
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    k = tl.arange(0, BLOCK_K)
    kernel_y, kernel_x = k // (3 * CHANNELS), k // CHANNELS % 3
    at = (kernel_y * stride_y + kernel_x * stride_x + k % CHANNELS * stride_in)[:, None] + channel * stride_out
    exists = (k < 9 * CHANNELS)[:, None] & (channel < CHANNELS_OUT)
    filters = tl.load(weight + at, mask=exists, other=0.0)
    if bias is not None:
        shift = tl.load(bias + channel, mask=channel < CHANNELS_OUT, other=0.0).to(tl.float32)
    for tile in tl.range(tl.program_id(0), tl.cdiv(rows, BLOCK_R), tl.num_programs(0), num_stages=STAGES):
        row = tile * BLOCK_R + tl.arange(0, BLOCK_R)
        patches = load_patches(images, row, rows, HEIGHT, WIDTH, CHANNELS, BLOCK_K).to(filters.dtype)
        value = tl.dot(patches, filters)
        if bias is not None:
            value += shift[None, :]
        if RELU:
            value = tl.maximum(value, 0.0)
        inside = (row < rows)[:, None] & (channel < CHANNELS_OUT)
        tl.store(y + row[:, None] * CHANNELS_OUT + channel, value.to(filters.dtype), mask=inside)


@triton.jit(do_not_specialize=["rows", "tiles"])
def weight_gradient(
    images, dy, shares, rows, tiles,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, CHANNELS_OUT: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Write the share of `tiles` tiles of rows in the gradient: ``(programs, CHANNELS_OUT, 3, 3, CHANNELS)``."""
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    k = tl.arange(0, BLOCK_K)
    total = tl.zeros([BLOCK_C, BLOCK_K], tl.float32)
    for tile in tl.range(0, tiles, num_stages=STAGES):
        row = (tl.program_id(0) * tiles + tile) * BLOCK_R + tl.arange(0, BLOCK_R)
        patches = load_patches(images, row, rows, HEIGHT, WIDTH, CHANNELS, BLOCK_K)
        inside = (row < rows)[:, None] & (channel < CHANNELS_OUT)
        grad = tl.load(dy + row[:, None] * CHANNELS_OUT + channel, mask=inside, other=0.0)
        patches = patches.to(grad.dtype)
        total = tl.dot(tl.trans(grad), patches, total)
    at = (tl.program_id(0) * CHANNELS_OUT + channel)[:, None] * (9 * CHANNELS) + k
    tl.store(shares + at, total, mask=(channel < CHANNELS_OUT)[:, None] & (k < 9 * CHANNELS))


@triton.jit
def load_patches(
    images, row, rows, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, BLOCK_K: tl.constexpr
):
    """Gather the patches of rows, in the order (y, x, channel); zeros beyond the border, the last row and patch."""
    k = tl.arange(0, BLOCK_K)
    # What does not exist lies outside of every image, so that one comparison of each coordinate is enough.
    shift_y = tl.where(k < 9 * CHANNELS, k // (3 * CHANNELS) - 1, HEIGHT)
    shift_x = k // CHANNELS % 3 - 1
    y = tl.where(row < rows, row // WIDTH % HEIGHT, -2 * HEIGHT)[:, None] + shift_y
    x = (row % WIDTH)[:, None] + shift_x
    inside = (y >= 0) & (y < HEIGHT) & (x >= 0) & (x < WIDTH)
    at = (row * CHANNELS)[:, None] + ((shift_y * WIDTH + shift_x) * CHANNELS + k % CHANNELS)
    return tl.load(images + at, mask=inside, other=0.0)
