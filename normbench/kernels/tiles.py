# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""What all Triton kernels share: channel lanes, statistics of tiles, the activation and its gradient.

A layer sees its input as (samples, rows, channels), where a row is a position of the image. A program works on tiles
of ``(BLOCK_R, BLOCK_C)``. Lanes are channels: a group of GROUP_SIZE channels takes GROUP_PAD lanes, the next power of
two, and a tile holds whole groups. A group's value stands in each of its lanes, so that all arithmetic broadcasts.
"""

from __future__ import annotations

import triton
import triton.language as tl


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
def tile_statistics(
    value, inside, count, CENTERED: tl.constexpr, GROUP_PAD: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    """Return mean and variance of groups that one tile holds whole, in two passes over registers."""
    mean = tl.zeros([BLOCK_C], tl.float32)
    if CENTERED:
        mean = group_sum(tl.sum(value, axis=0), GROUP_PAD, BLOCK_C) / count
    distance = tl.where(inside, value - mean[None, :], 0.0)
    return mean, group_sum(tl.sum(distance * distance, axis=0), GROUP_PAD, BLOCK_C) / count


@triton.jit
def row_statistics(
    x, row_begin, row_end, row_stride, column, valid,
    CENTERED: tl.constexpr, GROUP_SIZE: tl.constexpr, GROUP_PAD: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Return mean and variance over rows [row_begin, row_end): Welford's update in every lane, merged at the end."""
    lane = tl.arange(0, BLOCK_R)
    mean = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    distance2 = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    steps = 0.0
    for start in range(row_begin, row_end, BLOCK_R):
        row = start + lane
        inside = (row < row_end)[:, None] & valid[None, :]
        value = tl.load(x + row[:, None] * row_stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
        steps += 1.0
        delta = tl.where(inside, value - mean, 0.0)
        if CENTERED:
            mean += delta / steps
        distance2 += delta * (value - mean)
    count = ((row_end - row_begin) * GROUP_SIZE).to(tl.float32)
    group_mean = tl.zeros([BLOCK_C], tl.float32)
    if CENTERED:
        # The rows that each lane has seen: its share of the merged mean.
        seen = tl.maximum((row_end - row_begin - lane + BLOCK_R - 1) // BLOCK_R, 0).to(tl.float32)
        weight = tl.where(valid[None, :], seen[:, None], 0.0)
        group_mean = group_sum(tl.sum(mean * weight, axis=0), GROUP_PAD, BLOCK_C) / count
        offset = mean - group_mean[None, :]
        distance2 += weight * offset * offset
    return group_mean, group_sum(tl.sum(distance2, axis=0), GROUP_PAD, BLOCK_C) / count


@triton.jit
def merge_statistics(
    part_mean, part_var, first_part, parts, chunks, chunk_rows, rows, groups, group, valid,
    CENTERED: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Merge the statistics of `parts` chunks of rows (Chan et al.); the last chunk of a sample may be shorter."""
    lane = tl.arange(0, BLOCK_P)
    count = (rows * (parts // chunks)).to(tl.float32)
    mean = tl.zeros([BLOCK_C], tl.float32)
    if CENTERED:
        total = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
        for start in range(0, parts, BLOCK_P):
            part = start + lane
            inside = (part < parts)[:, None] & valid[None, :]
            share = tl.minimum(rows - (part % chunks) * chunk_rows, chunk_rows).to(tl.float32) / count
            at = (first_part + part)[:, None] * groups + group[None, :]
            total += share[:, None] * tl.load(part_mean + at, mask=inside, other=0.0)
        mean = tl.sum(total, axis=0)
    total = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for start in range(0, parts, BLOCK_P):
        part = start + lane
        inside = (part < parts)[:, None] & valid[None, :]
        share = tl.minimum(rows - (part % chunks) * chunk_rows, chunk_rows).to(tl.float32) / count
        at = (first_part + part)[:, None] * groups + group[None, :]
        second = tl.load(part_var + at, mask=inside, other=0.0)
        if CENTERED:
            offset = tl.load(part_mean + at, mask=inside, other=0.0) - mean[None, :]
            second += tl.where(inside, offset * offset, 0.0)
        total += share[:, None] * second
    return mean, tl.sum(total, axis=0)


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
def output(x, mean, rstd, weight, bias, extra, ACTIVATION: tl.constexpr):
    """Normalize and activate; all arguments broadcast to the tile."""
    if ACTIVATION == "gate":
        y = x * tl.sigmoid(extra * x) * rstd * weight + bias
    else:
        y = (x - mean) * rstd * weight + bias
        if ACTIVATION == "relu":
            y = tl.maximum(y, 0.0)
        elif ACTIVATION == "tlu":
            y = tl.maximum(y, extra)
    return y


@triton.jit
def gradient_terms(x, dy, mean, rstd, weight, bias, extra, ACTIVATION: tl.constexpr):
    """Return the normalized input, its gradient at fixed statistics, and what bias, weight and extra sum up.

    Where the output equals the threshold, the threshold takes the gradient.
    """
    normalized = (x - mean) * rstd
    if ACTIVATION == "gate":
        sigmoid = tl.sigmoid(extra * x)
        slope = x * sigmoid * (1.0 - sigmoid)
        to_bias = dy
        to_weight = dy * x * sigmoid * rstd
        to_extra = dy * weight * rstd * x * slope
        direct = dy * weight * (sigmoid + extra * slope)
    else:
        to_bias = dy
        if ACTIVATION == "relu":
            to_bias = tl.where(normalized * weight + bias > 0.0, dy, 0.0)
        elif ACTIVATION == "tlu":
            to_bias = tl.where(normalized * weight + bias > extra, dy, 0.0)
        to_weight = to_bias * normalized
        to_extra = dy - to_bias
        direct = to_bias * weight
    return normalized, direct, to_bias, to_weight, to_extra


@triton.jit
def row_gradients(
    x, dy, row_begin, row_end, row_stride, column, valid, mean, rstd, w, b, e,
    ACTIVATION: tl.constexpr, TERMS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Return the sums over rows of the gradients of bias, weight and (TERMS == 3) extra, per channel."""
    lane = tl.arange(0, BLOCK_R)
    sum_bias = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    sum_weight = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    sum_extra = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    for start in range(row_begin, row_end, BLOCK_R):
        inside = (start + lane < row_end)[:, None] & valid[None, :]
        at = (start + lane)[:, None] * row_stride + column[None, :]
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        _, _, to_bias, to_weight, to_extra = gradient_terms(value, grad, mean, rstd, w, b, e, ACTIVATION)
        sum_bias += to_bias
        sum_weight += to_weight
        if TERMS == 3:
            sum_extra += to_extra
    return tl.sum(sum_bias, axis=0), tl.sum(sum_weight, axis=0), tl.sum(sum_extra, axis=0)


@triton.jit
def store_dx(
    x, dy, dx, row_begin, row_end, row_stride, column, valid, mean, rstd, w, b, e, mean_bias, mean_weight,
    CENTERED: tl.constexpr, ACTIVATION: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Write dx of rows [row_begin, row_end)."""
    lane = tl.arange(0, BLOCK_R)
    for start in range(row_begin, row_end, BLOCK_R):
        inside = (start + lane < row_end)[:, None] & valid[None, :]
        at = (start + lane)[:, None] * row_stride + column[None, :]
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        normalized, direct, _, _, _ = gradient_terms(value, grad, mean, rstd, w, b, e, ACTIVATION)
        direct -= normalized * mean_weight
        if CENTERED and ACTIVATION != "gate":
            direct -= mean_bias
        tl.store(dx + at, direct * rstd, mask=inside)


@triton.jit
def store_sums(sums, part, channels, channel, valid, sum_bias, sum_weight, sum_extra, TERMS: tl.constexpr):
    """Write one part of ``(parts, TERMS, channels)``."""
    at = sums + part * TERMS * channels + channel
    tl.store(at, sum_bias, mask=valid)
    tl.store(at + channels, sum_weight, mask=valid)
    if TERMS == 3:
        tl.store(at + 2 * channels, sum_extra, mask=valid)


@triton.jit
def merge_sums(
    part_sums, term, first_part, parts, channels, channel, valid,
    TERMS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Return one term of ``(parts, TERMS, channels)`` summed over `parts` parts, always in the same order."""
    lane = tl.arange(0, BLOCK_P)
    total = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for start in range(0, parts, BLOCK_P):
        part = start + lane
        at = ((first_part + part) * TERMS + term)[:, None] * channels + channel[None, :]
        total += tl.load(part_sums + at, mask=(part < parts)[:, None] & valid[None, :], other=0.0)
    return tl.sum(total, axis=0)
