# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Kernels for statistics over rows and groups of channels: scopes ``sample`` and ``batch``.

Two ways, the same mathematics. Whole: one program reads all rows of its groups, so that one launch does all of it.
Split: programs share the rows; a first launch leaves partial results of each chunk, a second merges and applies them.
The backward pass is ``dx = rstd * (direct - mean(direct) - normalized * mean(direct * normalized))``, where the means
over a group come from the per-channel sums that are also the gradients of weight and bias.
"""

from __future__ import annotations

import triton
import triton.language as tl

from normbench.kernels.tiles import (
    channel_lanes,
    gradient_terms,
    group_sum,
    load_parameter,
    merge_statistics,
    merge_sums,
    output,
    row_gradients,
    row_statistics,
    store_dx,
    store_sums,
    tile_statistics,
    update_running,
)

# Whether these are 1 or divisible by 16 would only multiply the compilations.
UNSPECIALIZED = ["blocks", "chunks", "chunk_tiles", "parts", "merged_chunks", "merged_rows"]


@triton.jit(do_not_specialize=UNSPECIALIZED)
def whole_forward(
    x, y, mean_out, rstd_out, weight, bias, extra, running_mean, running_var, num_batches, momentum, eps,
    rows, channels, groups, blocks,
    CHANNELS_LAST: tl.constexpr, CENTERED: tl.constexpr, ACTIVATION: tl.constexpr, EXTRA: tl.constexpr,
    GROUP_SIZE: tl.constexpr, GROUP_PAD: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
    ONE_TILE: tl.constexpr,
):  # fmt: skip
    """Compute all of (sample, block of channels) in one program; ONE_TILE keeps the rows in registers."""
    sample = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    channel, group, valid, first = channel_lanes(block, channels, GROUP_SIZE, GROUP_PAD, BLOCK_C)
    row_stride = channels if CHANNELS_LAST else 1
    column = channel if CHANNELS_LAST else channel * rows
    x += sample * rows * channels
    y += sample * rows * channels
    w = load_parameter(weight, channel, valid, 1.0, BLOCK_C)[None, :]
    b = load_parameter(bias, channel, valid, 0.0, BLOCK_C)[None, :]
    e = load_parameter(extra, channel, valid, EXTRA, BLOCK_C)[None, :]
    lane = tl.arange(0, BLOCK_R)
    count = (rows * GROUP_SIZE).to(tl.float32)

    if ONE_TILE:
        inside = (lane < rows)[:, None] & valid[None, :]
        at = lane[:, None] * row_stride + column[None, :]
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        mean, var = tile_statistics(value, inside, count, CENTERED, GROUP_PAD, BLOCK_C)
        rstd = tl.rsqrt(var + eps)
        tl.store(y + at, output(value, mean[None, :], rstd[None, :], w, b, e, ACTIVATION), mask=inside)
    else:
        mean, var = row_statistics(
            x, 0, rows, row_stride, column, valid, CENTERED, GROUP_SIZE, GROUP_PAD, BLOCK_R, BLOCK_C
        )
        rstd = tl.rsqrt(var + eps)
        for start in range(0, rows, BLOCK_R):
            inside = (start + lane < rows)[:, None] & valid[None, :]
            at = (start + lane)[:, None] * row_stride + column[None, :]
            value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
            tl.store(y + at, output(value, mean[None, :], rstd[None, :], w, b, e, ACTIVATION), mask=inside)

    if CENTERED:
        tl.store(mean_out + sample * groups + group, mean, mask=first)
    tl.store(rstd_out + sample * groups + group, rstd, mask=first)
    update_running(running_mean, running_var, num_batches, momentum, mean, var, count, channel, first, block == 0)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def whole_backward(
    x, dy, dx, mean_in, rstd_in, weight, bias, extra, sums,
    rows, channels, groups, blocks,
    CHANNELS_LAST: tl.constexpr, CENTERED: tl.constexpr, ACTIVATION: tl.constexpr, EXTRA: tl.constexpr,
    TERMS: tl.constexpr, GROUP_SIZE: tl.constexpr, GROUP_PAD: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, ONE_TILE: tl.constexpr,
):  # fmt: skip
    """Compute dx of (sample, block of channels), and this sample's share of the parameters' gradients in `sums`."""
    sample = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    channel, group, valid, _ = channel_lanes(block, channels, GROUP_SIZE, GROUP_PAD, BLOCK_C)
    row_stride = channels if CHANNELS_LAST else 1
    column = channel if CHANNELS_LAST else channel * rows
    x += sample * rows * channels
    dy += sample * rows * channels
    dx += sample * rows * channels
    scale = load_parameter(weight, channel, valid, 1.0, BLOCK_C)
    w = scale[None, :]
    b = load_parameter(bias, channel, valid, 0.0, BLOCK_C)[None, :]
    e = load_parameter(extra, channel, valid, EXTRA, BLOCK_C)[None, :]
    mean = tl.zeros([1, BLOCK_C], tl.float32)
    if CENTERED:
        mean = tl.load(mean_in + sample * groups + group, mask=valid, other=0.0)[None, :]
    rstd = tl.load(rstd_in + sample * groups + group, mask=valid, other=0.0)[None, :]
    lane = tl.arange(0, BLOCK_R)
    count = (rows * GROUP_SIZE).to(tl.float32)

    if ONE_TILE:
        inside = (lane < rows)[:, None] & valid[None, :]
        at = lane[:, None] * row_stride + column[None, :]
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        normalized, direct, to_bias, to_weight, to_extra = gradient_terms(value, grad, mean, rstd, w, b, e, ACTIVATION)
        sum_bias = tl.sum(to_bias, axis=0)
        sum_weight = tl.sum(to_weight, axis=0)
        sum_extra = tl.sum(to_extra, axis=0) if TERMS == 3 else sum_bias
        mean_weight = group_sum(scale * sum_weight, GROUP_PAD, BLOCK_C)[None, :] / count
        direct -= normalized * mean_weight
        if CENTERED and ACTIVATION != "gate":
            direct -= group_sum(scale * sum_bias, GROUP_PAD, BLOCK_C)[None, :] / count
        tl.store(dx + at, direct * rstd, mask=inside)
    else:
        sum_bias, sum_weight, sum_extra = row_gradients(
            x, dy, 0, rows, row_stride, column, valid, mean, rstd, w, b, e, ACTIVATION, TERMS, BLOCK_R, BLOCK_C
        )
        mean_weight = group_sum(scale * sum_weight, GROUP_PAD, BLOCK_C)[None, :] / count
        mean_bias = group_sum(scale * sum_bias, GROUP_PAD, BLOCK_C)[None, :] / count
        store_dx(
            x, dy, dx, 0, rows, row_stride, column, valid, mean, rstd, w, b, e, mean_bias, mean_weight,
            CENTERED, ACTIVATION, BLOCK_R,
        )  # fmt: skip

    if sums is not None:
        store_sums(sums, sample, channels, channel, valid, sum_bias, sum_weight, sum_extra, TERMS)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def split_statistics(
    x, part_mean, part_var, rows, channels, groups, blocks, chunks, chunk_tiles,
    CHANNELS_LAST: tl.constexpr, CENTERED: tl.constexpr, GROUP_SIZE: tl.constexpr, GROUP_PAD: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write mean and variance of each (sample, chunk of rows, group)."""
    block = tl.program_id(0) % blocks
    part = tl.program_id(0) // blocks
    row_begin = part % chunks * chunk_tiles * BLOCK_R
    row_end = tl.minimum(row_begin + chunk_tiles * BLOCK_R, rows)
    channel, group, valid, first = channel_lanes(block, channels, GROUP_SIZE, GROUP_PAD, BLOCK_C)
    row_stride = channels if CHANNELS_LAST else 1
    column = channel if CHANNELS_LAST else channel * rows
    mean, var = row_statistics(
        x + part // chunks * rows * channels, row_begin, row_end, row_stride, column, valid,
        CENTERED, GROUP_SIZE, GROUP_PAD, BLOCK_R, BLOCK_C,
    )  # fmt: skip
    if CENTERED:
        tl.store(part_mean + part * groups + group, mean, mask=first)
    tl.store(part_var + part * groups + group, var, mask=first)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def split_forward(
    x, y, part_mean, part_var, mean_out, rstd_out, weight, bias, extra, running_mean, running_var, num_batches,
    momentum, eps, rows, channels, groups, blocks, chunks, chunk_tiles, parts, merged_chunks, merged_rows,
    ACROSS: tl.constexpr, CHANNELS_LAST: tl.constexpr, CENTERED: tl.constexpr, ACTIVATION: tl.constexpr,
    EXTRA: tl.constexpr, GROUP_SIZE: tl.constexpr, GROUP_PAD: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Merge `parts` partial statistics, over all samples where ACROSS, and apply them to one chunk of rows.

    The parts may be chunked differently from the rows here: running statistics are a single one.
    """
    block = tl.program_id(0) % blocks
    part = tl.program_id(0) // blocks
    sample = part // chunks
    chunk = part % chunks
    row_begin = chunk * chunk_tiles * BLOCK_R
    row_end = tl.minimum(row_begin + chunk_tiles * BLOCK_R, rows)
    channel, group, valid, first = channel_lanes(block, channels, GROUP_SIZE, GROUP_PAD, BLOCK_C)
    row_stride = channels if CHANNELS_LAST else 1
    column = channel if CHANNELS_LAST else channel * rows
    x += sample * rows * channels
    y += sample * rows * channels
    home = 0 if ACROSS else sample
    mean, var = merge_statistics(
        part_mean, part_var, home * parts, parts, merged_chunks, merged_rows, rows, groups, group, valid,
        CENTERED, BLOCK_P, BLOCK_C,
    )  # fmt: skip
    rstd = tl.rsqrt(var + eps)
    w = load_parameter(weight, channel, valid, 1.0, BLOCK_C)[None, :]
    b = load_parameter(bias, channel, valid, 0.0, BLOCK_C)[None, :]
    e = load_parameter(extra, channel, valid, EXTRA, BLOCK_C)[None, :]
    lane = tl.arange(0, BLOCK_R)
    for start in range(row_begin, row_end, BLOCK_R):
        inside = (start + lane < row_end)[:, None] & valid[None, :]
        at = (start + lane)[:, None] * row_stride + column[None, :]
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(y + at, output(value, mean[None, :], rstd[None, :], w, b, e, ACTIVATION), mask=inside)

    # The first programs of each set of statistics record them.
    owner = part if ACROSS else chunk
    if owner == 0:
        if mean_out is not None:
            tl.store(mean_out + home * groups + group, mean, mask=first)
        if rstd_out is not None:
            tl.store(rstd_out + home * groups + group, rstd, mask=first)
        count = (rows * (parts // merged_chunks) * GROUP_SIZE).to(tl.float32)
        update_running(running_mean, running_var, num_batches, momentum, mean, var, count, channel, first, block == 0)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def split_gradients(
    x, dy, part_sums, mean_in, rstd_in, weight, bias, extra, rows, channels, groups, blocks, chunks, chunk_tiles,
    ACROSS: tl.constexpr, CHANNELS_LAST: tl.constexpr, CENTERED: tl.constexpr, ACTIVATION: tl.constexpr,
    EXTRA: tl.constexpr, TERMS: tl.constexpr, GROUP_SIZE: tl.constexpr, GROUP_PAD: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write each chunk's share of the per-channel sums, ``(samples * chunks, TERMS, channels)``."""
    block = tl.program_id(0) % blocks
    part = tl.program_id(0) // blocks
    sample = part // chunks
    row_begin = part % chunks * chunk_tiles * BLOCK_R
    row_end = tl.minimum(row_begin + chunk_tiles * BLOCK_R, rows)
    channel, group, valid, _ = channel_lanes(block, channels, GROUP_SIZE, GROUP_PAD, BLOCK_C)
    row_stride = channels if CHANNELS_LAST else 1
    column = channel if CHANNELS_LAST else channel * rows
    home = 0 if ACROSS else sample
    mean = tl.zeros([1, BLOCK_C], tl.float32)
    if CENTERED:
        mean = tl.load(mean_in + home * groups + group, mask=valid, other=0.0)[None, :]
    rstd = tl.load(rstd_in + home * groups + group, mask=valid, other=0.0)[None, :]
    w = load_parameter(weight, channel, valid, 1.0, BLOCK_C)[None, :]
    b = load_parameter(bias, channel, valid, 0.0, BLOCK_C)[None, :]
    e = load_parameter(extra, channel, valid, EXTRA, BLOCK_C)[None, :]
    offset = sample * rows * channels
    sum_bias, sum_weight, sum_extra = row_gradients(
        x + offset, dy + offset, row_begin, row_end, row_stride, column, valid, mean, rstd, w, b, e,
        ACTIVATION, TERMS, BLOCK_R, BLOCK_C,
    )  # fmt: skip
    store_sums(part_sums, part, channels, channel, valid, sum_bias, sum_weight, sum_extra, TERMS)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def split_backward(
    x, dy, dx, part_sums, mean_in, rstd_in, weight, bias, extra, sums,
    rows, channels, groups, blocks, chunks, chunk_tiles, parts,
    ACROSS: tl.constexpr, CHANNELS_LAST: tl.constexpr, CENTERED: tl.constexpr, ACTIVATION: tl.constexpr,
    EXTRA: tl.constexpr, TERMS: tl.constexpr, GROUP_SIZE: tl.constexpr, GROUP_PAD: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Merge the per-channel sums of `parts` chunks and compute dx of one chunk; `sums` gets them where ACROSS."""
    block = tl.program_id(0) % blocks
    part = tl.program_id(0) // blocks
    sample = part // chunks
    row_begin = part % chunks * chunk_tiles * BLOCK_R
    row_end = tl.minimum(row_begin + chunk_tiles * BLOCK_R, rows)
    channel, group, valid, _ = channel_lanes(block, channels, GROUP_SIZE, GROUP_PAD, BLOCK_C)
    row_stride = channels if CHANNELS_LAST else 1
    column = channel if CHANNELS_LAST else channel * rows
    home = 0 if ACROSS else sample
    mean = tl.zeros([1, BLOCK_C], tl.float32)
    if CENTERED:
        mean = tl.load(mean_in + home * groups + group, mask=valid, other=0.0)[None, :]
    rstd = tl.load(rstd_in + home * groups + group, mask=valid, other=0.0)[None, :]
    scale = load_parameter(weight, channel, valid, 1.0, BLOCK_C)
    w = scale[None, :]
    b = load_parameter(bias, channel, valid, 0.0, BLOCK_C)[None, :]
    e = load_parameter(extra, channel, valid, EXTRA, BLOCK_C)[None, :]

    first_part = home * parts
    sum_bias = merge_sums(part_sums, 0, first_part, parts, channels, channel, valid, TERMS, BLOCK_P, BLOCK_C)
    sum_weight = merge_sums(part_sums, 1, first_part, parts, channels, channel, valid, TERMS, BLOCK_P, BLOCK_C)
    count = (rows * (parts // chunks) * GROUP_SIZE).to(tl.float32)
    mean_weight = group_sum(scale * sum_weight, GROUP_PAD, BLOCK_C)[None, :] / count
    mean_bias = group_sum(scale * sum_bias, GROUP_PAD, BLOCK_C)[None, :] / count
    offset = sample * rows * channels
    store_dx(
        x + offset, dy + offset, dx + offset, row_begin, row_end, row_stride, column, valid, mean, rstd, w, b, e,
        mean_bias, mean_weight, CENTERED, ACTIVATION, BLOCK_R,
    )  # fmt: skip
    # All programs have the same totals; those of the first part write them.
    if sums is not None:  # noqa: SIM102
        if part == 0:  # its own `if`: decided on the device, the other when compiling
            total_extra = sum_bias
            if TERMS == 3:
                total_extra = merge_sums(
                    part_sums, 2, first_part, parts, channels, channel, valid, TERMS, BLOCK_P, BLOCK_C
                )
            store_sums(sums, 0, channels, channel, valid, sum_bias, sum_weight, total_extra, TERMS)
