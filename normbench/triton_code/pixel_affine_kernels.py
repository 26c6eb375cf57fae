# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Kernels for layer normalization over (C, H, W) with a scale and a shift for each element.

A sample is `values` adjacent elements in either memory format, of which each program of `split_moments` takes a chunk.
In the other kernels a program takes one tile of the elements and a range of samples, so that it loads the tile's scale
and shift, and adds up their gradients, once. Tiles are ``(BLOCK_R, BLOCK_C)``, rows by channels, as in `tiles.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

UNSPECIALIZED = ["samples", "parts", "chunk", "chunk_tiles", "tiles", "blocks", "samples_per"]


@triton.jit(do_not_specialize=UNSPECIALIZED)
def split_moments(x, part_moments, values, parts, chunk_tiles, BLOCK: tl.constexpr, STAGES: tl.constexpr):
    """Write mean and variance of each chunk of each sample, ``(N, parts, 2)``."""
    chunk = chunk_tiles * BLOCK
    begin = tl.program_id(0) % parts * chunk
    end = tl.minimum(begin + chunk, values)
    x += tl.program_id(0) // parts * values
    # Distances are taken from the first value, so that a large mean costs no digits.
    pivot = tl.load(x + begin).to(tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    total2 = tl.zeros([BLOCK], tl.float32)
    for start in tl.range(begin, end, BLOCK, num_stages=STAGES):
        at = start + tl.arange(0, BLOCK)
        value = tl.load(x + at, mask=at < end, other=0.0).to(tl.float32)
        distance = tl.where(at < end, value - pivot, 0.0)
        total += distance
        total2 += distance * distance
    count = (end - begin).to(tl.float32)
    offset = tl.sum(total, axis=0) / count
    at_part = part_moments + 2 * tl.program_id(0)
    tl.store(at_part, pivot + offset)
    tl.store(at_part + 1, tl.maximum(tl.sum(total2, axis=0) / count - offset * offset, 0.0))


@triton.jit
def merged_moments(part_moments, sample, values, parts, chunk, BLOCK_P: tl.constexpr):
    """Return mean and variance of a sample, merged from its chunks (Chan et al.)."""
    lane = tl.arange(0, BLOCK_P)
    inside = lane < parts
    at = part_moments + 2 * (sample * parts + lane)
    pivot = tl.load(part_moments + 2 * sample * parts)
    offset = tl.where(inside, tl.load(at, mask=inside, other=0.0) - pivot, 0.0)
    share = tl.minimum(tl.maximum(values - lane * chunk, 0), chunk).to(tl.float32) / values
    mean = tl.sum(share * offset, axis=0)
    square = tl.sum(share * (tl.load(at + 1, mask=inside, other=0.0) + offset * offset), axis=0)
    return pivot + mean, tl.maximum(square - mean * mean, 0.0)


@triton.jit
def element_tile(
    tile, rows, channels, blocks, CHANNELS_LAST: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    """Return a tile's offsets in a sample, its offsets in ``(C, H, W)``, and which of them are elements."""
    row = (tile // blocks * BLOCK_R + tl.arange(0, BLOCK_R))[:, None]
    channel = (tile % blocks * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    at = channel * rows + row
    return row * channels + channel if CHANNELS_LAST else at, at, (row < rows) & (channel < channels)


@triton.jit
def load_affine(weight, bias, at, inside, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return scale and shift of a tile; 1 and 0 where they are absent."""
    w = tl.full([BLOCK_R, BLOCK_C], 1.0, tl.float32)
    b = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    if weight is not None:
        w = tl.load(weight + at, mask=inside, other=1.0).to(tl.float32)
        b = tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
    return w, b


@triton.jit(do_not_specialize=UNSPECIALIZED)
def pixel_forward(
    x, y, part_moments, kept, weight, bias, eps, samples, rows, channels, parts, chunk, tiles, blocks, samples_per,
    RELU: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Normalize and activate; keep mean and 1 / deviation of each sample, ``(N, 2)``."""
    tile = tl.program_id(0) % tiles
    first = tl.program_id(0) // tiles * samples_per
    values = rows * channels
    at, at_affine, inside = element_tile(tile, rows, channels, blocks, CHANNELS_LAST, BLOCK_R, BLOCK_C)
    w, b = load_affine(weight, bias, at_affine, inside, BLOCK_R, BLOCK_C)
    for sample in tl.range(first, tl.minimum(first + samples_per, samples), num_stages=STAGES):
        value = tl.load(x + sample * values + at, mask=inside, other=0.0).to(tl.float32)
        mean, var = merged_moments(part_moments, sample, values, parts, chunk, BLOCK_P)
        rstd = tl.rsqrt(var + eps)
        if tile == 0:
            tl.store(kept + 2 * sample, mean)
            tl.store(kept + 2 * sample + 1, rstd)
        result = (value - mean) * rstd * w + b
        if RELU:
            result = tl.maximum(result, 0.0)
        tl.store(y + sample * values + at, result, mask=inside)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def pixel_gradients(
    x, dy, kept, tile_sums, shares, weight, bias, samples, rows, channels, tiles, blocks, samples_per,
    RELU: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Write each tile's share of a sample's two sums, ``(N, tiles, 2)``, and of the gradients of scale and shift.

    The latter are sums over a range of samples, ``(ranges, 2, C * H * W)``.
    """
    tile = tl.program_id(0) % tiles
    part = tl.program_id(0) // tiles
    first = part * samples_per
    values = rows * channels
    at, at_affine, inside = element_tile(tile, rows, channels, blocks, CHANNELS_LAST, BLOCK_R, BLOCK_C)
    w, b = load_affine(weight, bias, at_affine, inside, BLOCK_R, BLOCK_C)
    to_weight = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    to_bias = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    for sample in tl.range(first, tl.minimum(first + samples_per, samples), num_stages=STAGES):
        value = tl.load(x + sample * values + at, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(dy + sample * values + at, mask=inside, other=0.0).to(tl.float32)
        normalized, grad = activation_gradient(value, grad, kept, sample, w, b, RELU)
        to_bias += grad
        to_weight += grad * normalized
        by_normalized = grad * w
        at_sums = tile_sums + 2 * (sample * tiles + tile)
        tl.store(at_sums, tl.sum(tl.sum(by_normalized, axis=1), axis=0))
        tl.store(at_sums + 1, tl.sum(tl.sum(by_normalized * normalized, axis=1), axis=0))
    if shares is not None:
        tl.store(shares + 2 * part * values + at_affine, to_weight, mask=inside)
        tl.store(shares + (2 * part + 1) * values + at_affine, to_bias, mask=inside)


@triton.jit
def activation_gradient(value, grad, kept, sample, w, b, RELU: tl.constexpr):
    """Return the normalized value, and the gradient before the activation."""
    mean = tl.load(kept + 2 * sample)
    rstd = tl.load(kept + 2 * sample + 1)
    normalized = (value - mean) * rstd
    if RELU:
        grad = tl.where(normalized * w + b > 0.0, grad, 0.0)
    return normalized, grad


@triton.jit(do_not_specialize=UNSPECIALIZED)
def pixel_backward(
    x, dy, dx, kept, tile_sums, weight, bias, samples, rows, channels, tiles, blocks, samples_per,
    RELU: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Write dx, from the sums of all tiles of a sample."""
    tile = tl.program_id(0) % tiles
    first = tl.program_id(0) // tiles * samples_per
    values = rows * channels
    at, at_affine, inside = element_tile(tile, rows, channels, blocks, CHANNELS_LAST, BLOCK_R, BLOCK_C)
    w, b = load_affine(weight, bias, at_affine, inside, BLOCK_R, BLOCK_C)
    lane = tl.arange(0, BLOCK_T)
    for sample in tl.range(first, tl.minimum(first + samples_per, samples), num_stages=STAGES):
        value = tl.load(x + sample * values + at, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(dy + sample * values + at, mask=inside, other=0.0).to(tl.float32)
        at_sums = tile_sums + 2 * (sample * tiles + lane)
        by_mean = tl.sum(tl.load(at_sums, mask=lane < tiles, other=0.0), axis=0) / values
        by_deviation = tl.sum(tl.load(at_sums + 1, mask=lane < tiles, other=0.0), axis=0) / values
        normalized, grad = activation_gradient(value, grad, kept, sample, w, b, RELU)
        rstd = tl.load(kept + 2 * sample + 1)
        tl.store(
            dx + sample * values + at, (grad * w - by_mean - normalized * by_deviation) * rstd, mask=inside
        )  # fmt: skip
