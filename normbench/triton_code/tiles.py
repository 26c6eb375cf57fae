# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Parts shared by the norm kernels: channel lanes, statistics of tiles, loops over rows, merged partial results.

A layer sees its input as (samples, rows, channels), where a row is a position of the image. A program works on tiles
of ``(BLOCK_R, BLOCK_C)``. Lanes are channels: a group of GROUP_SIZE channels takes GROUP_PAD lanes, the next power of
two, and a tile holds whole groups. A group's value stands in each of its lanes, so that all arithmetic broadcasts.
"""

from __future__ import annotations

import triton
import triton.language as tl

from normbench.triton_code.terms import channel_sums, gradient_terms, output


@triton.jit
def channel_lanes(block, channels, GROUP_SIZE: tl.constexpr, GROUP_PAD: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return for each lane its channel, its group, whether it is one, and whether it is the first of its group."""
    lane = tl.arange(0, BLOCK_C)
    if GROUP_SIZE == GROUP_PAD:
        channel = block * BLOCK_C + lane
        valid = channel < channels
        group = channel // GROUP_SIZE
    else:
        group = block * (BLOCK_C // GROUP_PAD) + lane // GROUP_PAD
        channel = group * GROUP_SIZE + lane % GROUP_PAD
        valid = (lane % GROUP_PAD < GROUP_SIZE) & (channel < channels)
    first = valid & (lane % GROUP_PAD == 0)
    return channel, group, valid, first


@triton.jit
def group_sum(lanes, GROUP_PAD: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return in each lane the sum over the lanes of its group."""
    if GROUP_PAD == 1:
        total = lanes
    elif GROUP_PAD == BLOCK_C:
        total = tl.zeros([BLOCK_C], tl.float32) + tl.sum(lanes, axis=0)
    else:
        grouped = tl.reshape(lanes, (BLOCK_C // GROUP_PAD, GROUP_PAD))
        spread = tl.broadcast_to(tl.sum(grouped, axis=1)[:, None], (BLOCK_C // GROUP_PAD, GROUP_PAD))
        total = tl.reshape(spread, (BLOCK_C,))
    return total


@triton.jit
def load_parameter(pointer, channel, valid, default: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return a per-channel parameter, or its default in every lane where it is absent."""
    value = tl.full([BLOCK_C], default, tl.float32)
    if pointer is not None:
        value = tl.load(pointer + channel, mask=valid, other=default).to(tl.float32)
    return value


@triton.jit
def load_parameters(weight, bias, extra, channel, valid, EXTRA: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return weight, bias and extra of each lane."""
    w = load_parameter(weight, channel, valid, 1.0, BLOCK_C)
    b = load_parameter(bias, channel, valid, 0.0, BLOCK_C)
    return w, b, load_parameter(extra, channel, valid, EXTRA, BLOCK_C)


@triton.jit
def load_statistics(mean_in, rstd_in, at, valid, CENTERED: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return mean (zero where not centered) and rstd of each lane."""
    mean = tl.zeros([BLOCK_C], tl.float32)
    if CENTERED:
        mean = tl.load(mean_in + at, mask=valid, other=0.0)
    return mean, tl.load(rstd_in + at, mask=valid, other=0.0)


@triton.jit
def tile_statistics(
    value, inside, count, CENTERED: tl.constexpr, GROUP_PAD: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    """Return mean and variance of groups that one tile holds whole, in two passes over registers."""
    mean = tl.zeros([BLOCK_C], tl.float32)
    if CENTERED:
        mean = tile_sum(value, GROUP_PAD, BLOCK_C) / count
    distance = tl.where(inside, value - mean[None, :], 0.0)
    return mean, tile_sum(distance * distance, GROUP_PAD, BLOCK_C) / count


@triton.jit
def tile_sum(tile, GROUP_PAD: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return in each lane the sum over all rows of the lanes of its group; a single group's lanes are summed first."""
    if GROUP_PAD == BLOCK_C:
        total = tl.zeros([BLOCK_C], tl.float32) + tl.sum(tl.sum(tile, axis=1), axis=0)
    else:
        total = group_sum(tl.sum(tile, axis=0), GROUP_PAD, BLOCK_C)
    return total


@triton.jit
def row_statistics(
    x, row_begin, row_end, row_stride, column, valid,
    CENTERED: tl.constexpr, GROUP_SIZE: tl.constexpr, GROUP_PAD: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Return mean and variance over rows [row_begin, row_end).

    Each channel sums its distances from a value of its own, the first, so that a large mean costs no digits; channels
    are then merged into their group (Chan et al.).
    """
    lane = tl.arange(0, BLOCK_R)
    pivot = tl.zeros([BLOCK_C], tl.float32)
    if CENTERED:
        pivot = tl.load(x + row_begin * row_stride + column, mask=valid, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    total2 = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    for start in tl.range(row_begin, row_end, BLOCK_R, num_stages=STAGES):
        row = start + lane
        inside = (row < row_end)[:, None] & valid[None, :]
        value = tl.load(x + row[:, None] * row_stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
        if CENTERED:
            value = tl.where(inside, value - pivot[None, :], 0.0)
            total += value
        total2 += value * value
    rows = (row_end - row_begin).to(tl.float32)
    square = tl.sum(total2, axis=0)
    mean = tl.zeros([BLOCK_C], tl.float32)
    if CENTERED:
        offset = tl.sum(total, axis=0) / rows
        mean = group_sum(pivot + offset, GROUP_PAD, BLOCK_C) / GROUP_SIZE
        distance = tl.where(valid, pivot + offset - mean, 0.0)
        square = tl.maximum(square - rows * offset * offset, 0.0) + rows * distance * distance
    return mean, group_sum(square, GROUP_PAD, BLOCK_C) / (rows * GROUP_SIZE)


@triton.jit
def merge_statistics(
    part_mean, part_var, first_part, parts, chunks, chunk_rows, rows, groups, group, valid,
    CENTERED: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Merge the statistics of `parts` chunks of rows (Chan et al.); the last chunk of a sample may be shorter."""
    lane = tl.arange(0, BLOCK_P)
    count = (rows * (parts // chunks)).to(tl.float32)
    pivot = tl.zeros([BLOCK_C], tl.float32)
    if CENTERED:
        pivot = tl.load(part_mean + first_part * groups + group, mask=valid, other=0.0)
    total = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    total2 = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for start in range(0, parts, BLOCK_P):
        part = start + lane
        inside = (part < parts)[:, None] & valid[None, :]
        share = (tl.minimum(rows - (part % chunks) * chunk_rows, chunk_rows).to(tl.float32) / count)[:, None]
        at = (first_part + part)[:, None] * groups + group[None, :]
        total2 += share * tl.load(part_var + at, mask=inside, other=0.0)
        if CENTERED:
            offset = tl.where(inside, tl.load(part_mean + at, mask=inside, other=0.0) - pivot[None, :], 0.0)
            total += share * offset
            total2 += share * offset * offset
    offset = tl.sum(total, axis=0)
    return pivot + offset, tl.maximum(tl.sum(total2, axis=0) - offset * offset, 0.0)


@triton.jit
def update_running(running_mean, running_var, num_batches, momentum, mean, var, count, channel, storing, first_block):
    """Move the running statistics toward those of the batch, the variance unbiased, as BatchNorm2d does."""
    if running_mean is not None:
        old_mean = tl.load(running_mean + channel, mask=storing, other=0.0)
        old_var = tl.load(running_var + channel, mask=storing, other=0.0)
        unbiased = var * (count / (count - 1.0))
        tl.store(running_mean + channel, old_mean + momentum * (mean - old_mean), mask=storing)
        tl.store(running_var + channel, old_var + momentum * (unbiased - old_var), mask=storing)
        if num_batches is not None:
            tl.store(num_batches, tl.load(num_batches) + 1, mask=first_block)


@triton.jit
def row_gradients(
    x, dy, row_begin, row_end, row_stride, column, valid, mean, rstd, scale, b, e, ACTIVATION: tl.constexpr,
    TERMS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Return the gradients of bias, weight and (TERMS == 3) extra, summed over rows [row_begin, row_end)."""
    lane = tl.arange(0, BLOCK_R)
    sum_bias = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    sum_weight = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    sum_extra = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    for start in tl.range(row_begin, row_end, BLOCK_R, num_stages=STAGES):
        inside = (start + lane < row_end)[:, None] & valid[None, :]
        at = (start + lane)[:, None] * row_stride + column[None, :]
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        _, _, to_bias, to_weight, to_extra = gradient_terms(
            value, grad, mean[None, :], scale[None, :], b[None, :], e[None, :], ACTIVATION
        )
        sum_bias += to_bias
        sum_weight += to_weight
        if TERMS == 3:
            sum_extra += to_extra
    return channel_sums(sum_bias, sum_weight, sum_extra, rstd, scale, ACTIVATION, TERMS)


@triton.jit
def statistics_gradients(
    w, rstd, sum_bias, sum_weight, count, CENTERED: tl.constexpr, ACTIVATION: tl.constexpr,
    GROUP_PAD: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Return slope and offset of ``dx = direct * scale - distance * slope - offset``, constant in each group."""
    slope = group_sum(w * sum_weight, GROUP_PAD, BLOCK_C) / count * rstd * rstd
    offset = tl.zeros([BLOCK_C], tl.float32)
    if CENTERED and ACTIVATION != "swish":
        offset = group_sum(w * sum_bias, GROUP_PAD, BLOCK_C) / count * rstd
    return slope, offset


@triton.jit
def store_output(
    x, y, row_begin, row_end, row_stride, column, valid, mean, scale, b, e,
    ACTIVATION: tl.constexpr, BLOCK_R: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Write the output of rows [row_begin, row_end); last rows first, which the cache still holds."""
    lane = tl.arange(0, BLOCK_R)
    tiles = tl.cdiv(row_end - row_begin, BLOCK_R)
    for step in tl.range(0, tiles, num_stages=STAGES):
        row = row_begin + (tiles - 1 - step) * BLOCK_R + lane
        inside = (row < row_end)[:, None] & valid[None, :]
        at = row[:, None] * row_stride + column[None, :]
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(y + at, output(value, mean[None, :], scale[None, :], b[None, :], e[None, :], ACTIVATION), mask=inside)


@triton.jit
def store_dx(
    x, dy, dx, row_begin, row_end, row_stride, column, valid, mean, scale, b, e, slope, offset,
    ACTIVATION: tl.constexpr, BLOCK_R: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Write dx of rows [row_begin, row_end); last rows first, which the cache still holds."""
    lane = tl.arange(0, BLOCK_R)
    tiles = tl.cdiv(row_end - row_begin, BLOCK_R)
    for step in tl.range(0, tiles, num_stages=STAGES):
        row = row_begin + (tiles - 1 - step) * BLOCK_R + lane
        inside = (row < row_end)[:, None] & valid[None, :]
        at = row[:, None] * row_stride + column[None, :]
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        distance, direct, _, _, _ = gradient_terms(
            value, grad, mean[None, :], scale[None, :], b[None, :], e[None, :], ACTIVATION
        )
        tl.store(dx + at, direct * scale[None, :] - distance * slope[None, :] - offset[None, :], mask=inside)


@triton.jit
def store_sums(sums, part, channels, channel, valid, sum_bias, sum_weight, sum_extra, TERMS: tl.constexpr):
    """Write one part of ``(parts, TERMS, channels)``."""
    at = sums + part * TERMS * channels + channel
    tl.store(at, sum_bias, mask=valid)
    tl.store(at + channels, sum_weight, mask=valid)
    if TERMS == 3:
        tl.store(at + 2 * channels, sum_extra, mask=valid)


@triton.jit
def merge_parts(
    parts_of, first_part, parts, columns, column, valid, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    """Return some columns of ``(parts, columns)`` summed over `parts` parts, always in the same order."""
    lane = tl.arange(0, BLOCK_P)
    total = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for start in range(0, parts, BLOCK_P):
        part = start + lane
        at = (first_part + part)[:, None] * columns + column[None, :]
        total += tl.load(parts_of + at, mask=(part < parts)[:, None] & valid[None, :], other=0.0)
    return tl.sum(total, axis=0)
