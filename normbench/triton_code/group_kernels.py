# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Kernels for statistics over rows and groups of channels: scopes ``sample`` and ``batch``.

Two sets of kernels do the same mathematics. Whole: one program reads all rows of its groups, in a single launch. Split:
programs share the rows; a first launch leaves partial results of each chunk, a second merges and applies them.
The backward pass is ``dx = rstd * (direct - mean(direct) - normalized * mean(direct * normalized))``, where the means
over a group come from the per-channel sums that are also the gradients of weight and bias.
"""

from __future__ import annotations

import triton
import triton.language as tl

from normbench.triton_code.terms import channel_sums, gradient_terms, output
from normbench.triton_code.tiles import (
    channel_lanes,
    load_parameters,
    load_statistics,
    merge_parts,
    merge_statistics,
    row_gradients,
    row_statistics,
    statistics_gradients,
    store_dx,
    store_output,
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
    STAGES: tl.constexpr, ONE_TILE: tl.constexpr,
):  # fmt: skip
    """Compute all of (sample, block of channels) in one program; ONE_TILE keeps the rows in registers."""
    sample = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    channel, group, valid, first = channel_lanes(block, channels, GROUP_SIZE, GROUP_PAD, BLOCK_C)
    row_stride = channels if CHANNELS_LAST else 1
    column = channel if CHANNELS_LAST else channel * rows
    x += sample * rows * channels
    y += sample * rows * channels
    w, b, e = load_parameters(weight, bias, extra, channel, valid, EXTRA, BLOCK_C)
    count = (rows * GROUP_SIZE).to(tl.float32)

    if ONE_TILE:
        lane = tl.arange(0, BLOCK_R)
        inside = (lane < rows)[:, None] & valid[None, :]
        at = lane[:, None] * row_stride + column[None, :]
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        mean, var = tile_statistics(value, inside, count, CENTERED, GROUP_PAD, BLOCK_C)
        rstd = tl.rsqrt(var + eps)
        scale = (rstd * w)[None, :]
        tl.store(y + at, output(value, mean[None, :], scale, b[None, :], e[None, :], ACTIVATION), mask=inside)
    else:
        mean, var = row_statistics(
            x, 0, rows, row_stride, column, valid, CENTERED, GROUP_SIZE, GROUP_PAD, BLOCK_R, BLOCK_C, STAGES
        )
        rstd = tl.rsqrt(var + eps)
        store_output(
            x, y, 0, rows, row_stride, column, valid, mean, rstd * w, b, e, ACTIVATION, BLOCK_R, STAGES
        )  # fmt: skip

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
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, STAGES: tl.constexpr, ONE_TILE: tl.constexpr,
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
    w, b, e = load_parameters(weight, bias, extra, channel, valid, EXTRA, BLOCK_C)
    mean, rstd = load_statistics(mean_in, rstd_in, sample * groups + group, valid, CENTERED, BLOCK_C)
    scale = rstd * w
    count = (rows * GROUP_SIZE).to(tl.float32)

    if ONE_TILE:
        lane = tl.arange(0, BLOCK_R)
        inside = (lane < rows)[:, None] & valid[None, :]
        at = lane[:, None] * row_stride + column[None, :]
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        distance, direct, to_bias, to_weight, to_extra = gradient_terms(
            value, grad, mean[None, :], scale[None, :], b[None, :], e[None, :], ACTIVATION
        )
        sum_bias, sum_weight, sum_extra = channel_sums(to_bias, to_weight, to_extra, rstd, scale, ACTIVATION, TERMS)
        slope, offset = statistics_gradients(
            w, rstd, sum_bias, sum_weight, count, CENTERED, ACTIVATION, GROUP_PAD, BLOCK_C
        )
        tl.store(dx + at, direct * scale[None, :] - distance * slope[None, :] - offset[None, :], mask=inside)
    else:
        sum_bias, sum_weight, sum_extra = row_gradients(
            x, dy, 0, rows, row_stride, column, valid, mean, rstd, scale, b, e,
            ACTIVATION, TERMS, BLOCK_R, BLOCK_C, STAGES,
        )  # fmt: skip
        slope, offset = statistics_gradients(
            w, rstd, sum_bias, sum_weight, count, CENTERED, ACTIVATION, GROUP_PAD, BLOCK_C
        )
        store_dx(
            x, dy, dx, 0, rows, row_stride, column, valid, mean, scale, b, e, slope, offset,
            ACTIVATION, BLOCK_R, STAGES,
        )  # fmt: skip

    if sums is not None:
        store_sums(sums, sample, channels, channel, valid, sum_bias, sum_weight, sum_extra, TERMS)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def split_statistics(
    x, part_mean, part_var, rows, channels, groups, blocks, chunks, chunk_tiles,
    CHANNELS_LAST: tl.constexpr, CENTERED: tl.constexpr, GROUP_SIZE: tl.constexpr, GROUP_PAD: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, STAGES: tl.constexpr,
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
        CENTERED, GROUP_SIZE, GROUP_PAD, BLOCK_R, BLOCK_C, STAGES,
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
    BLOCK_P: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, STAGES: tl.constexpr,
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
    home = 0 if ACROSS else sample
    w, b, e = load_parameters(weight, bias, extra, channel, valid, EXTRA, BLOCK_C)
    mean, var = merge_statistics(
        part_mean, part_var, home * parts, parts, merged_chunks, merged_rows, rows, groups, group, valid,
        CENTERED, BLOCK_P, BLOCK_C,
    )  # fmt: skip
    rstd = tl.rsqrt(var + eps)
    # The first programs of each set of statistics record them.
    owner = part if ACROSS else chunk
    if owner == 0:
        if mean_out is not None:
            tl.store(mean_out + home * groups + group, mean, mask=first)
        if rstd_out is not None:
            tl.store(rstd_out + home * groups + group, rstd, mask=first)
        count = (rows * (parts // merged_chunks) * GROUP_SIZE).to(tl.float32)
        update_running(running_mean, running_var, num_batches, momentum, mean, var, count, channel, first, block == 0)
    offset = sample * rows * channels
    store_output(
        x + offset, y + offset, row_begin, row_end, row_stride, column, valid, mean, rstd * w, b, e,
        ACTIVATION, BLOCK_R, STAGES,
    )  # fmt: skip


@triton.jit(do_not_specialize=UNSPECIALIZED)
def split_gradients(
    x, dy, part_sums, mean_in, rstd_in, weight, bias, extra, rows, channels, groups, blocks, chunks, chunk_tiles,
    ACROSS: tl.constexpr, CHANNELS_LAST: tl.constexpr, CENTERED: tl.constexpr, ACTIVATION: tl.constexpr,
    EXTRA: tl.constexpr, TERMS: tl.constexpr, GROUP_SIZE: tl.constexpr, GROUP_PAD: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, STAGES: tl.constexpr,
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
    w, b, e = load_parameters(weight, bias, extra, channel, valid, EXTRA, BLOCK_C)
    mean, rstd = load_statistics(mean_in, rstd_in, home * groups + group, valid, CENTERED, BLOCK_C)
    offset = sample * rows * channels
    sum_bias, sum_weight, sum_extra = row_gradients(
        x + offset, dy + offset, row_begin, row_end, row_stride, column, valid, mean, rstd, rstd * w, b, e,
        ACTIVATION, TERMS, BLOCK_R, BLOCK_C, STAGES,
    )  # fmt: skip
    store_sums(part_sums, part, channels, channel, valid, sum_bias, sum_weight, sum_extra, TERMS)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def split_backward(
    x, dy, dx, part_sums, mean_in, rstd_in, weight, bias, extra, sums,
    rows, channels, groups, blocks, chunks, chunk_tiles, parts,
    ACROSS: tl.constexpr, CHANNELS_LAST: tl.constexpr, CENTERED: tl.constexpr, ACTIVATION: tl.constexpr,
    EXTRA: tl.constexpr, TERMS: tl.constexpr, GROUP_SIZE: tl.constexpr, GROUP_PAD: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, STAGES: tl.constexpr,
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
    w, b, e = load_parameters(weight, bias, extra, channel, valid, EXTRA, BLOCK_C)
    mean, rstd = load_statistics(mean_in, rstd_in, home * groups + group, valid, CENTERED, BLOCK_C)

    first, width = home * parts, TERMS * channels
    sum_bias = merge_parts(part_sums, first, parts, width, channel, valid, BLOCK_P, BLOCK_C)
    sum_weight = merge_parts(part_sums, first, parts, width, channels + channel, valid, BLOCK_P, BLOCK_C)
    # All programs have the same totals; those of the first part write them.
    if sums is not None:  # noqa: SIM102
        if part == 0:  # its own `if`: decided on the device, the other when compiling
            total_extra = sum_bias
            if TERMS == 3:
                total_extra = merge_parts(
                    part_sums, first, parts, width, 2 * channels + channel, valid, BLOCK_P, BLOCK_C
                )
            store_sums(sums, 0, channels, channel, valid, sum_bias, sum_weight, total_extra, TERMS)
    count = (rows * (parts // chunks) * GROUP_SIZE).to(tl.float32)
    slope, shift = statistics_gradients(w, rstd, sum_bias, sum_weight, count, CENTERED, ACTIVATION, GROUP_PAD, BLOCK_C)
    offset = sample * rows * channels
    store_dx(
        x + offset, dy + offset, dx + offset, row_begin, row_end, row_stride, column, valid, mean, rstd * w, b, e,
        slope, shift, ACTIVATION, BLOCK_R, STAGES,
    )  # fmt: skip


@triton.jit(do_not_specialize=["parts", "columns"])
def add_shares(shares, sums, parts, columns, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """Sum ``(parts, columns)`` over the parts, always in the same order."""
    column = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    valid = column < columns
    tl.store(sums + column, merge_parts(shares, 0, parts, columns, column, valid, BLOCK_P, BLOCK_C), mask=valid)
