# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Kernels of a small convolution of images and the GELU after it, of which only the bias is trained."""

from __future__ import annotations

import triton
import triton.language as tl

from normbench.triton_code.terms import normal


@triton.jit
def forward(
    images, weight, bias, y, count,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, SIZE: tl.constexpr, FILTERS: tl.constexpr,
    LANES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the output of a block of positions."""
    position = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    filters = tl.arange(0, LANES)
    z = before(images, weight, bias, position, filters, count, HEIGHT, WIDTH, CHANNELS, SIZE, FILTERS, LANES, BLOCK)
    below, _ = normal(z)
    there = (position < count)[:, None] & (filters < FILTERS)[None, :]
    tl.store(y + position[:, None] * FILTERS + filters[None, :], z * below, mask=there)


@triton.jit
def backward(
    images, weight, bias, grad, shares, count,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, SIZE: tl.constexpr, FILTERS: tl.constexpr,
    LANES: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Write a share of the bias's gradient, that of TILES blocks of positions, which are computed anew."""
    filters = tl.arange(0, LANES)
    total = tl.zeros([LANES], tl.float32)
    for tile in range(TILES):
        position = (tl.program_id(0) * TILES + tile) * BLOCK + tl.arange(0, BLOCK)
        z = before(images, weight, bias, position, filters, count, HEIGHT, WIDTH, CHANNELS, SIZE, FILTERS, LANES, BLOCK)
        below, density = normal(z)
        there = (position < count)[:, None] & (filters < FILTERS)[None, :]
        at = position[:, None] * FILTERS + filters[None, :]
        total += tl.sum(tl.load(grad + at, mask=there, other=0.0).to(tl.float32) * (below + z * density), axis=0)
    tl.store(shares + tl.program_id(0) * FILTERS + filters, total, mask=filters < FILTERS)


@triton.jit
def before(
    images, weight, bias, position, filters, count,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, SIZE: tl.constexpr, FILTERS: tl.constexpr,
    LANES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return what comes before the GELU, ``(BLOCK, LANES)``, at these positions, counted through images and rows."""
    rows: tl.constexpr = HEIGHT - SIZE + 1
    columns: tl.constexpr = WIDTH - SIZE + 1
    row = position // columns % rows
    first = ((position // columns // rows * HEIGHT + row) * WIDTH + position % columns) * CHANNELS
    is_filter = filters < FILTERS
    z = tl.zeros([BLOCK, LANES], tl.float32) + tl.load(bias + filters, mask=is_filter, other=0.0)[None, :]
    for term in tl.static_range(CHANNELS * SIZE * SIZE):
        # as the weight is stored: (filters, rows, columns, channels)
        pixel = term // CHANNELS
        away = (pixel // SIZE * WIDTH + pixel % SIZE) * CHANNELS + term % CHANNELS
        value = tl.load(images + first + away, mask=position < count, other=0.0).to(tl.float32)
        factor = tl.load(weight + filters * (CHANNELS * SIZE * SIZE) + term, mask=is_filter, other=0.0)
        z += value[:, None] * factor[None, :]
    return z
