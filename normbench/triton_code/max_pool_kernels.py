# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Kernels of the maximum over windows of 2 x 2 pixels: forward, and backward from which pixel it was."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def forward(
    x, y, winners, count,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write a block of maxima, and which pixel of its window each is, 0 to 3: the first of equal ones, or a NaN."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = at < count
    first = first_pixel(at, HEIGHT, WIDTH, WIDTH // 2, HEIGHT // 2, CHANNELS)
    best = tl.load(x + first, mask=there, other=0.0).to(tl.float32)
    winner = tl.zeros([BLOCK], tl.uint8)
    for pixel in tl.static_range(1, 4):
        place = first + (pixel // 2 * WIDTH + pixel % 2) * CHANNELS
        value = tl.load(x + place, mask=there, other=0.0).to(tl.float32)
        is_better = (value > best) | (value != value)
        best = tl.where(is_better, value, best)
        winner = tl.where(is_better, pixel, winner).to(tl.uint8)
    tl.store(y + at, best, mask=there)
    tl.store(winners + at, winner, mask=there)


@triton.jit
def backward(
    grad, winners, dx, count,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradient of a block of windows, and zeros for a last odd row or column, which no window has."""
    columns: tl.constexpr = (WIDTH + 1) // 2
    rows: tl.constexpr = (HEIGHT + 1) // 2
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = at < count
    first = first_pixel(at, HEIGHT, WIDTH, columns, rows, CHANNELS)
    channel = at % CHANNELS
    column = (at // CHANNELS) % columns
    row = (at // CHANNELS // columns) % rows
    sample = at // CHANNELS // columns // rows
    is_window = there & (column < WIDTH // 2) & (row < HEIGHT // 2)
    window = ((sample * (HEIGHT // 2) + row) * (WIDTH // 2) + column) * CHANNELS + channel
    value = tl.load(grad + window, mask=is_window, other=0.0)
    winner = tl.load(winners + window, mask=is_window, other=0)
    for pixel in tl.static_range(4):
        is_inside = there & (2 * column + pixel % 2 < WIDTH) & (2 * row + pixel // 2 < HEIGHT)
        given = tl.where(winner == pixel, value, 0.0)
        tl.store(dx + first + (pixel // 2 * WIDTH + pixel % 2) * CHANNELS, given, mask=is_inside)


@triton.jit
def first_pixel(
    at, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Return where the first pixel of window `at` is, counted through samples, rows, columns and channels."""
    window = at // CHANNELS
    column = window % COLUMNS
    row = (window // COLUMNS) % ROWS
    sample = window // COLUMNS // ROWS
    return ((sample * HEIGHT + 2 * row) * WIDTH + 2 * column) * CHANNELS + at % CHANNELS
