# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Kernels for norms by several statistics: moments, output; sums of gradients, input gradient.

The input is (samples, rows, channels). A part is a range of samples or, where there are fewer samples than programs, of
one sample's rows; a program takes one part of one block of channels. Consecutive `sub` samples share the batch
statistics, and `parts` parts cover them. Tiles are ``(BLOCK_S, BLOCK_R, BLOCK_C)``; ONE_TILE says that one holds all
rows of its samples in the part. What a pass leaves for the next is in float32 and added in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from normbench.triton_code.moments_formulas import (
    coefficients,
    column_terms,
    evonorm_divisor,
    evonorm_gradients,
    input_coefficients,
    softmax3,
)
from normbench.triton_code.tiles import channel_lanes, group_sum, load_parameter, merge_parts

UNSPECIALIZED = ["samples", "blocks", "parts", "samples_per", "row_chunks", "chunk_rows", "sub"]


@triton.jit
def part_range(part, samples, rows, parts, samples_per, row_chunks, chunk_rows, sub):
    """Return the samples [first, last) and rows [begin, end) of a part; a last part may have no samples."""
    position = part % parts
    first = part // parts * sub + position // row_chunks * samples_per
    last = tl.minimum(tl.minimum(first + samples_per, (part // parts + 1) * sub), samples)
    begin = position % row_chunks * chunk_rows
    return first, last, begin, tl.minimum(begin + chunk_rows, rows)


@triton.jit
def merged_columns(
    part_moments, index, samples, rows, channels, parts, samples_per, row_chunks, chunk_rows, sub, channel, valid,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Return mean and variance of the batch `index` of `sub` samples, merged from its parts (Chan et al.)."""
    lane = tl.arange(0, BLOCK_P)
    sub_samples = tl.minimum((index + 1) * sub, samples) - index * sub
    count = sub_samples.to(tl.float32) * rows
    width = 2 * channels
    pivot = tl.load(part_moments + index * parts * width + channel, mask=valid, other=0.0)
    total = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    total2 = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for start in range(0, parts, BLOCK_P):
        position = start + lane
        held = tl.minimum(sub_samples - position // row_chunks * samples_per, samples_per)
        tall = tl.minimum(rows - position % row_chunks * chunk_rows, chunk_rows)
        share = (tl.maximum(held, 0).to(tl.float32) * tall.to(tl.float32) / count)[:, None]
        inside = (position < parts)[:, None] & valid[None, :]
        at = (index * parts + position)[:, None] * width + channel[None, :]
        offset = tl.where(inside, tl.load(part_moments + at, mask=inside, other=0.0) - pivot[None, :], 0.0)
        total += share * offset
        total2 += share * (tl.load(part_moments + at + channels, mask=inside, other=0.0) + offset * offset)
    offset = tl.sum(total, axis=0)
    return pivot + offset, tl.maximum(tl.sum(total2, axis=0) - offset * offset, 0.0)


@triton.jit
def tile_addresses(
    sample, row, last, end, rows, channels, channel, valid, CHANNELS_LAST: tl.constexpr
):  # fmt: skip
    """Return the offsets of a tile and which of them lie in the part."""
    row_stride = channels if CHANNELS_LAST else 1
    column = channel if CHANNELS_LAST else channel * rows
    at = (sample * (rows * channels))[:, None, None] + (row * row_stride)[None, :, None] + column[None, None, :]
    inside = (sample < last)[:, None, None] & (row < end)[None, :, None] & valid[None, None, :]
    return at, inside


@triton.jit(do_not_specialize=UNSPECIALIZED)
def moments(
    x, sample_moments, part_moments, running_mean, running_var, snapshot,
    samples, rows, channels, blocks, parts, samples_per, row_chunks, chunk_rows, sub,
    CHANNELS_LAST: tl.constexpr, GROUP_SIZE: tl.constexpr, GROUP_PAD: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, ONE_TILE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Write mean and variance of each sample's rows in the part, ``(N * row_chunks, 2, C)``, and of the whole part.

    The former are left out where no statistic of the sample takes part, the part's, ``(all parts, 2, C)``, where none
    of the batch does. `snapshot`, ``(2, C)``, gets the running statistics as they are before the update.
    """
    block = tl.program_id(0) % blocks
    part = tl.program_id(0) // blocks
    first, last, begin, end = part_range(part, samples, rows, parts, samples_per, row_chunks, chunk_rows, sub)
    channel, _, valid, _ = channel_lanes(block, channels, GROUP_SIZE, GROUP_PAD, BLOCK_C)
    tall = (end - begin).to(tl.float32)
    s = tl.arange(0, BLOCK_S)
    r = tl.arange(0, BLOCK_R)

    # Distances are taken from the first value, so that a large mean costs no digits.
    here = valid & (first < last)
    column = channel if CHANNELS_LAST else channel * rows
    row_stride = channels if CHANNELS_LAST else 1
    pivot = tl.load(x + first * (rows * channels) + begin * row_stride + column, mask=here, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK_C], tl.float32)
    total2 = tl.zeros([BLOCK_C], tl.float32)
    for start in tl.range(first, last, BLOCK_S, num_stages=STAGES if ONE_TILE else 1):
        sample = start + s
        if ONE_TILE:
            at, inside = tile_addresses(sample, begin + r, last, end, rows, channels, channel, valid, CHANNELS_LAST)
            value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
            mean = tl.sum(value, axis=1) / tall
            distance = tl.where(inside, value - mean[:, None, :], 0.0)
            var = tl.sum(distance * distance, axis=1) / tall
        else:
            sums = tl.zeros([BLOCK_S, BLOCK_R, BLOCK_C], tl.float32)
            squares = tl.zeros([BLOCK_S, BLOCK_R, BLOCK_C], tl.float32)
            at_first = sample[:, None] * (rows * channels) + begin * row_stride + column[None, :]
            held = (sample < last)[:, None] & valid[None, :]
            own = tl.load(x + at_first, mask=held, other=0.0).to(tl.float32)
            for row in tl.range(begin, end, BLOCK_R, num_stages=STAGES):
                at, inside = tile_addresses(sample, row + r, last, end, rows, channels, channel, valid, CHANNELS_LAST)
                value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
                distance = tl.where(inside, value - own[:, None, :], 0.0)
                sums += distance
                squares += distance * distance
            offset = tl.sum(sums, axis=1) / tall
            mean = own + offset
            var = tl.maximum(tl.sum(squares, axis=1) / tall - offset * offset, 0.0)
        held = (sample < last)[:, None] & valid[None, :]
        if sample_moments is not None:
            at_moments = (sample * row_chunks + part % parts % row_chunks)[:, None] * (2 * channels) + channel[None, :]
            tl.store(sample_moments + at_moments, mean, mask=held)
            tl.store(sample_moments + at_moments + channels, var, mask=held)
        offset = tl.where(held, mean - pivot[None, :], 0.0)
        total += tl.sum(offset, axis=0)
        total2 += tl.sum(tl.where(held, var, 0.0) + offset * offset, axis=0)
    if part_moments is not None:
        count = tl.maximum(last - first, 1).to(tl.float32)
        offset = total / count
        at_part = part_moments + part * 2 * channels + channel
        tl.store(at_part, pivot + offset, mask=valid)
        tl.store(at_part + channels, tl.maximum(total2 / count - offset * offset, 0.0), mask=valid)
    if snapshot is not None:  # noqa: SIM102
        if part == 0:
            tl.store(snapshot + channel, tl.load(running_mean + channel, mask=valid, other=0.0), mask=valid)
            tl.store(snapshot + channels + channel, tl.load(running_var + channel, mask=valid, other=0.0), mask=valid)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def merge_moments(
    part_moments, merged, samples, rows, channels, parts, samples_per, row_chunks, chunk_rows, sub,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write mean and variance of the whole batch, ``(1, 2, C)``, where too many parts are left for every program."""
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    valid = channel < channels
    mean, var = merged_columns(
        part_moments, 0, samples, rows, channels, parts, samples_per, row_chunks, chunk_rows, sub, channel, valid,
        BLOCK_P, BLOCK_C,
    )  # fmt: skip
    tl.store(merged + channel, mean, mask=valid)
    tl.store(merged + channels + channel, var, mask=valid)


@triton.jit
def load_lanes(
    weight, bias, extra, extra2, channel, group, valid, skipped,
    FORMULA: tl.constexpr, GATED: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Return weight, bias, the formula's two parameters as lanes, and the weights of a mixture."""
    w = load_parameter(weight, channel, valid, 1.0, BLOCK_C)
    b = load_parameter(bias, channel, valid, 0.0, BLOCK_C)
    e = tl.full([BLOCK_C], 1.0, tl.float32)
    e2 = tl.zeros([BLOCK_C], tl.float32)
    if FORMULA == "batch_group":
        e = load_parameter(extra, group, valid, 1.0, BLOCK_C)
        e2 = load_parameter(extra2, group, valid, 0.0, BLOCK_C)
    elif FORMULA == "batch_instance" and not GATED:
        e = tl.where(channel < skipped, 0.0, 1.0)
    elif FORMULA != "switch":
        e = load_parameter(extra, channel, valid, 1.0, BLOCK_C)
    return w[None, :], b[None, :], e[None, :], e2[None, :]


@triton.jit
def mixture(extra, extra2, FORMULA: tl.constexpr, BATCH: tl.constexpr):
    """Return the six weights of a switchable norm; zeros for others."""
    if FORMULA == "switch":
        a, b, c = softmax3(extra, BATCH != "none")
        d, e, f = softmax3(extra2, BATCH != "none")
    else:
        a, b, c = 0.0, 0.0, 0.0
        d, e, f = 0.0, 0.0, 0.0
    return a, b, c, d, e, f


@triton.jit
def renormalization(mean, var, snapshot, extra, extra2, channels, channel, valid, eps):
    """Return r and d of batch renormalization (arXiv 1702.03275), from the running statistics before the update."""
    running_mean = tl.load(snapshot + channel, mask=valid, other=0.0)
    running_std = tl.load(snapshot + channels + channel, mask=valid, other=1.0)
    r_limit = tl.load(extra)
    d_limit = tl.load(extra2)
    r = tl.sqrt(var + eps) / running_std
    d = (mean - running_mean) / running_std
    return tl.minimum(tl.maximum(r, 1.0 / r_limit), r_limit), tl.minimum(tl.maximum(d, -d_limit), d_limit)


@triton.jit
def batch_scale(var, r, eps, FORMULA: tl.constexpr, RUNNING_STD: tl.constexpr):
    """Return what `coefficients` takes as ``rb``: the factor of the distance, or what the formula has instead of it."""
    if FORMULA == "batch_instance":
        scale = 1.0 / var if RUNNING_STD else r * tl.rsqrt(var + eps)
    elif FORMULA == "batch_group":
        scale = tl.rsqrt(var + eps)
    elif FORMULA == "switch":
        scale = var
    else:
        scale = tl.sqrt(var + eps)
    return scale


@triton.jit
def update_running(
    part_moments, running_mean, running_var, num_batches, momentum, mean, var, eps,
    samples, rows, channels, parts, samples_per, row_chunks, chunk_rows, sub, channel, valid, storing, skipped,
    first_block, FORMULA: tl.constexpr, RENORM: tl.constexpr, ONE_SUB: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Move the running statistics toward those of the batch, as if by one sub-batch after the other.

    They keep the unbiased variance; EvoNorm's the biased one and no mean, batch renormalization's the deviation.
    """
    at = channel - skipped  # those of IBN have no room for the channels of instance statistics
    new_mean = momentum * mean
    remaining = 1.0 - momentum
    if ONE_SUB:
        count = samples.to(tl.float32) * rows
        if RENORM:
            new_var = momentum * tl.sqrt(var + eps)
        elif FORMULA == "batch_instance" or FORMULA == "switch" or FORMULA == "batch_group":
            new_var = momentum * var * (count / (count - 1.0))
        else:
            new_var = momentum * var
    else:
        new_mean, new_var, remaining = weighted_columns(
            part_moments, momentum, samples, rows, channels, parts, samples_per, row_chunks, chunk_rows, sub, channel,
            valid, BLOCK_K, BLOCK_P, BLOCK_C,
        )  # fmt: skip
    if running_mean is not None:
        old_mean = tl.load(running_mean + at, mask=storing, other=0.0)
        tl.store(running_mean + at, remaining * old_mean + new_mean, mask=storing)
    old_var = tl.load(running_var + at, mask=storing, other=0.0)
    tl.store(running_var + at, remaining * old_var + new_var, mask=storing)
    if num_batches is not None:
        tl.store(num_batches, tl.load(num_batches) + 1, mask=first_block)


@triton.jit
def weighted_columns(
    part_moments, momentum, samples, rows, channels, parts, samples_per, row_chunks, chunk_rows, sub, channel, valid,
    BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Return sums of mean and unbiased variance of all sub-batches, the later the heavier, and the weight of the old.

    BLOCK_P is at least `parts`.
    """
    subs = tl.cdiv(samples, sub)
    p = tl.arange(0, BLOCK_P)[None, :]
    total_mean = tl.zeros([BLOCK_K, BLOCK_C], tl.float32)
    total_var = tl.zeros([BLOCK_K, BLOCK_C], tl.float32)
    log_kept = tl.log2(1.0 - momentum)
    for start in range(0, subs, BLOCK_K):
        index = (start + tl.arange(0, BLOCK_K))[:, None]
        sub_samples = tl.minimum((index + 1) * sub, samples) - index * sub
        held = tl.maximum(tl.minimum(sub_samples - p // row_chunks * samples_per, samples_per), 0)
        tall = tl.minimum(rows - p % row_chunks * chunk_rows, chunk_rows)
        count = tl.maximum(sub_samples, 1).to(tl.float32) * rows
        share = tl.where((p < parts) & (index < subs), held.to(tl.float32) * tall.to(tl.float32) / count, 0.0)
        share = share[:, :, None]
        at_part = ((index * parts + p) * (2 * channels))[:, :, None] + channel[None, None, :]
        inside = (share > 0.0) & valid[None, None, :]
        means = tl.load(part_moments + at_part, mask=inside, other=0.0)
        mean = tl.sum(share * means, axis=1)
        distance = tl.where(inside, means - mean[:, None, :], 0.0)
        spread = tl.load(part_moments + at_part + channels, mask=inside, other=0.0) + distance * distance
        weight = tl.where(index < subs, momentum * tl.exp2((subs - 1 - index).to(tl.float32) * log_kept), 0.0)
        total_mean += weight * mean
        total_var += weight * tl.sum(share * spread, axis=1) * (count / tl.maximum(count - 1.0, 1.0))
    return tl.sum(total_mean, axis=0), tl.sum(total_var, axis=0), tl.exp2(subs.to(tl.float32) * log_kept)


@triton.jit
def output(value, center, scale, shift, w, b, e, rb, FORMULA: tl.constexpr, RELU: tl.constexpr):
    """Return the output of a tile, given what its samples and channels have in `coefficients`."""
    if FORMULA == "batch_instance" or FORMULA == "switch" or FORMULA == "batch_group":
        y = (value - center[:, None, :]) * scale[:, None, :] + shift[:, None, :]
    else:
        divisor, _ = evonorm_divisor(value, scale[:, None, :], e[:, None, :], rb[:, None, :], FORMULA)
        y = value / divisor * w[:, None, :] + b[:, None, :]
    if RELU:
        y = tl.maximum(y, 0.0)
    return y


@triton.jit(do_not_specialize=[*UNSPECIALIZED, "skipped"])
def apply(
    x, y, sample_moments, kept_moments, part_moments, merged, kept_columns, snapshot,
    weight, bias, extra, extra2, running_mean, running_var, num_batches, momentum, eps, skipped,
    samples, rows, channels, blocks, parts, samples_per, row_chunks, chunk_rows, sub,
    FORMULA: tl.constexpr, RELU: tl.constexpr, BATCH: tl.constexpr, BY_INSTANCE: tl.constexpr, GATED: tl.constexpr,
    RENORM: tl.constexpr, SPLIT_ROWS: tl.constexpr, ONE_SUB: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, GROUP_SIZE: tl.constexpr, GROUP_PAD: tl.constexpr, BLOCK_K: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
    ONE_TILE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Normalize and activate a part, update the running statistics, and keep what the backward pass needs.

    That is `kept_moments` ``(N, 2, C)``, where they were of parts of the rows, and `kept_columns`
    ``(sub-batches, 4, C)``: the batch's mean and variance and, of a renormalization, r and d.
    """
    block = tl.program_id(0) % blocks
    part = tl.program_id(0) // blocks
    first, last, begin, end = part_range(part, samples, rows, parts, samples_per, row_chunks, chunk_rows, sub)
    channel, group, valid, _ = channel_lanes(block, channels, GROUP_SIZE, GROUP_PAD, BLOCK_C)
    w, b, e, e2 = load_lanes(weight, bias, extra, extra2, channel, group, valid, skipped, FORMULA, GATED, BLOCK_C)
    mix = mixture(extra, extra2, FORMULA, BATCH)
    mean = tl.zeros([BLOCK_C], tl.float32)
    var = tl.zeros([BLOCK_C], tl.float32)
    ratio = tl.full([BLOCK_C], 1.0, tl.float32)
    correction = tl.zeros([BLOCK_C], tl.float32)
    if BATCH == "running":
        stored = valid & (channel >= skipped)
        if running_mean is not None:
            mean = tl.load(running_mean + channel - skipped, mask=stored, other=0.0)
        var = tl.load(running_var + channel - skipped, mask=stored, other=1.0)
    if BATCH == "batch":
        if merged is not None:
            mean = tl.load(merged + channel, mask=valid, other=0.0)
            var = tl.load(merged + channels + channel, mask=valid, other=0.0)
        else:
            mean, var = merged_columns(
                part_moments, part // parts, samples, rows, channels, parts, samples_per, row_chunks, chunk_rows, sub,
                channel, valid, BLOCK_P, BLOCK_C,
            )  # fmt: skip
        if RENORM:
            ratio, correction = renormalization(mean, var, snapshot, extra, extra2, channels, channel, valid, eps)
        if part % parts == 0:
            at_kept = kept_columns + part // parts * 4 * channels + channel
            tl.store(at_kept, mean, mask=valid)
            tl.store(at_kept + channels, var, mask=valid)
            if RENORM:
                tl.store(at_kept + 2 * channels, ratio, mask=valid)
                tl.store(at_kept + 3 * channels, correction, mask=valid)
        if running_var is not None:  # noqa: SIM102
            if part == 0:  # its own `if`: decided on the device, the other when compiling
                update_running(
                    part_moments, running_mean, running_var, num_batches, momentum, mean, var, eps,
                    samples, rows, channels, parts, samples_per, row_chunks, chunk_rows, sub, channel, valid,
                    valid & (channel >= skipped), skipped, block == 0,
                    FORMULA, RENORM, ONE_SUB, BLOCK_K, BLOCK_P, BLOCK_C,
                )  # fmt: skip
    mean = mean[None, :]
    rb = batch_scale(var, ratio, eps, FORMULA, RENORM and BATCH == "running")[None, :]
    correction = correction[None, :]

    s = tl.arange(0, BLOCK_S)
    r = tl.arange(0, BLOCK_R)
    for start in tl.range(first, last, BLOCK_S, num_stages=STAGES if ONE_TILE else 1):
        sample = start + s
        held = (sample < last)[:, None] & valid[None, :]
        at_moments = sample[:, None] * (2 * channels) + channel[None, :]
        center = tl.zeros([BLOCK_S, BLOCK_C], tl.float32) + mean
        spread = tl.zeros([BLOCK_S, BLOCK_C], tl.float32)
        if BY_INSTANCE:
            if SPLIT_ROWS:
                # All parts of the one sample there is in the tile, as if it were a batch.
                own_mean, own_var = merged_columns(
                    sample_moments, start, samples, rows, channels, row_chunks, 1, row_chunks, chunk_rows, 1,
                    channel, valid, BLOCK_Q, BLOCK_C,
                )  # fmt: skip
                center = own_mean[None, :]
                spread = own_var[None, :]
                if begin == 0:
                    tl.store(kept_moments + at_moments, center, mask=held)
                    tl.store(kept_moments + at_moments + channels, spread, mask=held)
            else:
                center = tl.load(sample_moments + at_moments, mask=held, other=0.0)
                spread = tl.load(sample_moments + at_moments + channels, mask=held, other=0.0)
        scale, shift = coefficients(
            center, spread, mean, rb, correction, w, b, e, e2, mix, eps, valid[None, :],
            FORMULA, BATCH, BY_INSTANCE, GROUP_SIZE, GROUP_PAD, BLOCK_S, BLOCK_C,
        )  # fmt: skip
        if ONE_TILE:
            at, inside = tile_addresses(sample, begin + r, last, end, rows, channels, channel, valid, CHANNELS_LAST)
            value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
            tl.store(y + at, output(value, center, scale, shift, w, b, e, rb, FORMULA, RELU), mask=inside)
        else:
            for row in tl.range(begin, end, BLOCK_R, num_stages=STAGES):
                at, inside = tile_addresses(sample, row + r, last, end, rows, channels, channel, valid, CHANNELS_LAST)
                value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
                tl.store(y + at, output(value, center, scale, shift, w, b, e, rb, FORMULA, RELU), mask=inside)


@triton.jit
def before_activation(value, grad, center, scale, shift, RELU: tl.constexpr):
    """Return the distance from the center, and the gradient before the activation."""
    distance = value - center[:, None, :]
    if RELU:
        grad = tl.where(distance * scale[:, None, :] + shift[:, None, :] > 0.0, grad, 0.0)
    return distance, grad


@triton.jit
def load_columns(
    kept_columns, running_mean, running_var, index, channels, channel, valid, skipped, eps,
    FORMULA: tl.constexpr, BATCH: tl.constexpr, RENORM: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Return the batch's mean, ``rb`` of `coefficients`, d of a renormalization, and 1 / (variance + eps)."""
    mean = tl.zeros([BLOCK_C], tl.float32)
    var = tl.zeros([BLOCK_C], tl.float32)
    ratio = tl.full([BLOCK_C], 1.0, tl.float32)
    correction = tl.zeros([BLOCK_C], tl.float32)
    if BATCH == "running":
        stored = valid & (channel >= skipped)
        if running_mean is not None:
            mean = tl.load(running_mean + channel - skipped, mask=stored, other=0.0)
        var = tl.load(running_var + channel - skipped, mask=stored, other=1.0)
    elif BATCH == "batch":
        at_kept = kept_columns + index * 4 * channels + channel
        mean = tl.load(at_kept, mask=valid, other=0.0)
        var = tl.load(at_kept + channels, mask=valid, other=0.0)
        if RENORM:
            ratio = tl.load(at_kept + 2 * channels, mask=valid, other=1.0)
            correction = tl.load(at_kept + 3 * channels, mask=valid, other=0.0)
    rb = batch_scale(var, ratio, eps, FORMULA, RENORM and BATCH == "running")
    return mean[None, :], rb[None, :], correction[None, :], (1.0 / (var + eps))[None, :]


@triton.jit(do_not_specialize=[*UNSPECIALIZED, "skipped"])
def sum_gradients(
    x, dy, row_sums, part_terms, kept_moments, kept_columns,
    weight, bias, extra, extra2, running_mean, running_var, eps, skipped,
    samples, rows, channels, blocks, parts, samples_per, row_chunks, chunk_rows, sub,
    TERMS: tl.constexpr, FORMULA: tl.constexpr, RELU: tl.constexpr, BATCH: tl.constexpr, BY_INSTANCE: tl.constexpr,
    GATED: tl.constexpr, RENORM: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, GROUP_SIZE: tl.constexpr, GROUP_PAD: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, ONE_TILE: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Write the sums over each sample's rows in the part, and the part's share of what is summed over samples.

    `row_sums` ``(N * row_chunks, 2, C)`` are `by_shift` and `by_scale`; of EvoNorm, the gradient of the sample's
    deviation alone. `part_terms` are ``(all parts, TERMS, C)``.
    """
    block = tl.program_id(0) % blocks
    part = tl.program_id(0) // blocks
    first, last, begin, end = part_range(part, samples, rows, parts, samples_per, row_chunks, chunk_rows, sub)
    channel, group, valid, _ = channel_lanes(block, channels, GROUP_SIZE, GROUP_PAD, BLOCK_C)
    w, b, e, e2 = load_lanes(weight, bias, extra, extra2, channel, group, valid, skipped, FORMULA, GATED, BLOCK_C)
    mix = mixture(extra, extra2, FORMULA, BATCH)
    mean, rb, correction, _ = load_columns(
        kept_columns, running_mean, running_var, part // parts, channels, channel, valid, skipped, eps,
        FORMULA, BATCH, RENORM, BLOCK_C,
    )  # fmt: skip
    AFFINE: tl.constexpr = FORMULA == "batch_instance" or FORMULA == "switch" or FORMULA == "batch_group"
    term0 = tl.zeros([BLOCK_C], tl.float32)
    term1 = tl.zeros([BLOCK_C], tl.float32)
    term2 = tl.zeros([BLOCK_C], tl.float32)
    term3 = tl.zeros([BLOCK_C], tl.float32)
    term4 = tl.zeros([BLOCK_C], tl.float32)
    term5 = tl.zeros([BLOCK_C], tl.float32)
    term6 = tl.zeros([BLOCK_C], tl.float32)
    term7 = tl.zeros([BLOCK_C], tl.float32)

    s = tl.arange(0, BLOCK_S)
    r = tl.arange(0, BLOCK_R)
    for start in tl.range(first, last, BLOCK_S, num_stages=STAGES if ONE_TILE else 1):
        sample = start + s
        held = (sample < last)[:, None] & valid[None, :]
        center = tl.zeros([BLOCK_S, BLOCK_C], tl.float32) + mean
        spread = tl.zeros([BLOCK_S, BLOCK_C], tl.float32)
        if BY_INSTANCE:
            at_moments = sample[:, None] * (2 * channels) + channel[None, :]
            center = tl.load(kept_moments + at_moments, mask=held, other=0.0)
            spread = tl.load(kept_moments + at_moments + channels, mask=held, other=0.0)
        scale, shift = coefficients(
            center, spread, mean, rb, correction, w, b, e, e2, mix, eps, valid[None, :],
            FORMULA, BATCH, BY_INSTANCE, GROUP_SIZE, GROUP_PAD, BLOCK_S, BLOCK_C,
        )  # fmt: skip
        a0 = tl.zeros([BLOCK_S, BLOCK_R, BLOCK_C], tl.float32)
        a1 = tl.zeros([BLOCK_S, BLOCK_R, BLOCK_C], tl.float32)
        a2 = tl.zeros([BLOCK_S, BLOCK_R, BLOCK_C], tl.float32)
        a3 = tl.zeros([BLOCK_S, BLOCK_R, BLOCK_C], tl.float32)
        a4 = tl.zeros([BLOCK_S, BLOCK_R, BLOCK_C], tl.float32)
        if ONE_TILE:
            at, inside = tile_addresses(sample, begin + r, last, end, rows, channels, channel, valid, CHANNELS_LAST)
            value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
            grad = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
            if AFFINE:
                distance, a0 = before_activation(value, grad, center, scale, shift, RELU)
                a1 = a0 * distance
            else:
                direct, a1, a2, a3, a4 = evonorm_gradients(
                    value, grad, scale[:, None, :], e[:, None, :], rb[:, None, :], FORMULA
                )
                a0 = grad
        else:
            for row in tl.range(begin, end, BLOCK_R, num_stages=STAGES):
                at, inside = tile_addresses(sample, row + r, last, end, rows, channels, channel, valid, CHANNELS_LAST)
                value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
                grad = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
                if AFFINE:
                    distance, direct = before_activation(value, grad, center, scale, shift, RELU)
                    a0 += direct
                    a1 += direct * distance
                else:
                    direct, by_weight, by_deviation, by_batch, by_v1 = evonorm_gradients(
                        value, grad, scale[:, None, :], e[:, None, :], rb[:, None, :], FORMULA
                    )
                    a0 += grad
                    a1 += by_weight
                    a2 += by_deviation
                    a3 += by_batch
                    if FORMULA == "evonorm_b0":
                        a4 += by_v1
        by_shift = tl.sum(a0, axis=1)
        by_scale = tl.sum(a1, axis=1)
        at_sums = (sample * row_chunks + part % parts % row_chunks)[:, None] * (2 * channels) + channel[None, :]
        if AFFINE:
            if row_sums is not None:
                tl.store(row_sums + at_sums, by_shift, mask=held)
                tl.store(row_sums + at_sums + channels, by_scale, mask=held)
            t0, t1, t2, t3, t4, t5, t6, t7 = column_terms(
                by_shift, by_scale, center, spread, mean, rb, correction, w, b, e, mix, eps, valid[None, :],
                FORMULA, BATCH, BY_INSTANCE, GROUP_SIZE, GROUP_PAD, BLOCK_S, BLOCK_C,
            )  # fmt: skip
            term0 += tl.sum(t0, axis=0)
            term1 += tl.sum(t1, axis=0)
            term2 += tl.sum(t2, axis=0)
            if TERMS > 3:
                term3 += tl.sum(t3, axis=0)
            if TERMS > 4:
                term4 += tl.sum(t4, axis=0)
                term5 += tl.sum(t5, axis=0)
                term6 += tl.sum(t6, axis=0)
                term7 += tl.sum(t7, axis=0)
        else:
            tl.store(row_sums + at_sums, -w * tl.sum(a2, axis=1), mask=held)
            tl.store(row_sums + at_sums + channels, by_shift, mask=held)
            term0 += tl.sum(by_shift, axis=0)
            term1 += tl.sum(by_scale, axis=0)
            term2 += tl.sum(tl.sum(a3, axis=1), axis=0)
            if FORMULA == "evonorm_b0":
                term3 += tl.sum(-w * tl.sum(a4, axis=1), axis=0)
    at_terms = part_terms + part * TERMS * channels + channel
    tl.store(at_terms, term0, mask=valid)
    tl.store(at_terms + channels, term1, mask=valid)
    tl.store(at_terms + 2 * channels, term2, mask=valid)
    if TERMS > 3:
        tl.store(at_terms + 3 * channels, term3, mask=valid)
    if TERMS > 4:
        tl.store(at_terms + 4 * channels, term4, mask=valid)
        tl.store(at_terms + 5 * channels, term5, mask=valid)
        tl.store(at_terms + 6 * channels, term6, mask=valid)
        tl.store(at_terms + 7 * channels, term7, mask=valid)


@triton.jit
def merged_term(
    terms, index, parts, channels, channel, valid, TERM: tl.constexpr, TERMS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Return one of the TERMS terms, zeros beyond them, summed over the parts of a sub-batch."""
    total = tl.zeros([BLOCK_C], tl.float32)
    if TERM < TERMS:
        total = merge_parts(
            terms, index * parts, parts, TERMS * channels, TERM * channels + channel, valid, BLOCK_P, BLOCK_C
        )
    return total


@triton.jit(do_not_specialize=[*UNSPECIALIZED, "skipped", "term_parts"])
def input_gradient(
    x, dy, dx, row_sums, terms, kept_moments, kept_columns, gradients,
    weight, bias, extra, extra2, running_mean, running_var, eps, skipped, term_parts,
    samples, rows, channels, blocks, parts, samples_per, row_chunks, chunk_rows, sub,
    TERMS: tl.constexpr, FORMULA: tl.constexpr, RELU: tl.constexpr, BATCH: tl.constexpr, BY_INSTANCE: tl.constexpr,
    GATED: tl.constexpr, RENORM: tl.constexpr, SPLIT_ROWS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, GROUP_SIZE: tl.constexpr, GROUP_PAD: tl.constexpr, BLOCK_P: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, ONE_TILE: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Write dx of a part; the programs of part 0 write the parameters' gradients, ``(4, at least C)``.

    Those are of bias, weight, `extra` and `extra2`. `term_parts` is how many parts `terms` has for each sub-batch: 1
    where they were summed before.
    """
    block = tl.program_id(0) % blocks
    part = tl.program_id(0) // blocks
    first, last, begin, end = part_range(part, samples, rows, parts, samples_per, row_chunks, chunk_rows, sub)
    channel, group, valid, leads = channel_lanes(block, channels, GROUP_SIZE, GROUP_PAD, BLOCK_C)
    w, b, e, e2 = load_lanes(weight, bias, extra, extra2, channel, group, valid, skipped, FORMULA, GATED, BLOCK_C)
    mix = mixture(extra, extra2, FORMULA, BATCH)
    mean, rb, correction, squared = load_columns(
        kept_columns, running_mean, running_var, part // parts, channels, channel, valid, skipped, eps,
        FORMULA, BATCH, RENORM, BLOCK_C,
    )  # fmt: skip
    AFFINE: tl.constexpr = FORMULA == "batch_instance" or FORMULA == "switch" or FORMULA == "batch_group"
    total0 = tl.zeros([BLOCK_C], tl.float32)
    total1 = total0
    total2 = total0
    total3 = total0
    if BATCH == "batch":
        index = part // parts
        total0 = merged_term(terms, index, term_parts, channels, channel, valid, 0, TERMS, BLOCK_P, BLOCK_C)
        total2 = merged_term(terms, index, term_parts, channels, channel, valid, 2, TERMS, BLOCK_P, BLOCK_C)
        if FORMULA == "batch_group":
            total1 = merged_term(terms, index, term_parts, channels, channel, valid, 1, TERMS, BLOCK_P, BLOCK_C)
        if FORMULA == "switch":
            total3 = merged_term(terms, index, term_parts, channels, channel, valid, 3, TERMS, BLOCK_P, BLOCK_C)
    if gradients is not None:  # noqa: SIM102
        if part == 0:  # its own `if`: decided on the device, the other when compiling
            store_gradients(
                gradients, terms, term_parts * tl.cdiv(samples, sub), channels, channel, group, valid, leads, mix,
                TERMS, FORMULA, BATCH, GROUP_PAD, BLOCK_P, BLOCK_C,
            )  # fmt: skip
    total0, total1, total2, total3 = total0[None, :], total1[None, :], total2[None, :], total3[None, :]
    sharing = (tl.minimum((part // parts + 1) * sub, samples) - part // parts * sub).to(tl.float32)
    height = rows.to(tl.float32)

    s = tl.arange(0, BLOCK_S)
    r = tl.arange(0, BLOCK_R)
    for start in tl.range(first, last, BLOCK_S, num_stages=STAGES if ONE_TILE else 1):
        sample = start + s
        held = (sample < last)[:, None] & valid[None, :]
        center = tl.zeros([BLOCK_S, BLOCK_C], tl.float32) + mean
        spread = tl.zeros([BLOCK_S, BLOCK_C], tl.float32)
        by_shift = tl.zeros([BLOCK_S, BLOCK_C], tl.float32)
        by_scale = tl.zeros([BLOCK_S, BLOCK_C], tl.float32)
        if BY_INSTANCE:
            at_moments = sample[:, None] * (2 * channels) + channel[None, :]
            center = tl.load(kept_moments + at_moments, mask=held, other=0.0)
            spread = tl.load(kept_moments + at_moments + channels, mask=held, other=0.0)
        if row_sums is not None:
            if SPLIT_ROWS:
                width = 2 * channels
                by_shift = merge_parts(
                    row_sums, start * row_chunks, row_chunks, width, channel, valid, BLOCK_Q, BLOCK_C
                )[None, :]
                by_scale = merge_parts(
                    row_sums, start * row_chunks, row_chunks, width, channels + channel, valid, BLOCK_Q, BLOCK_C
                )[None, :]
            else:
                at_sums = sample[:, None] * (2 * channels) + channel[None, :]
                by_shift = tl.load(row_sums + at_sums, mask=held, other=0.0)
                by_scale = tl.load(row_sums + at_sums + channels, mask=held, other=0.0)
        scale, shift = coefficients(
            center, spread, mean, rb, correction, w, b, e, e2, mix, eps, valid[None, :],
            FORMULA, BATCH, BY_INSTANCE, GROUP_SIZE, GROUP_PAD, BLOCK_S, BLOCK_C,
        )  # fmt: skip
        if AFFINE:
            slope, offset = input_coefficients(
                by_shift, by_scale, center, spread, mean, rb, squared, total0, total1, total2, total3,
                w, b, e, mix, eps, valid[None, :], height, sharing,
                FORMULA, BATCH, BY_INSTANCE, GROUP_SIZE, GROUP_PAD, BLOCK_S, BLOCK_C,
            )  # fmt: skip
        else:
            slope = by_shift / (scale * height)
            offset = tl.zeros([BLOCK_S, BLOCK_C], tl.float32)
            if FORMULA != "evonorm_b0":
                offset = slope * center
            if BATCH == "batch":
                by_var = -w * total2 * squared / (rb * height * sharing)
                slope += by_var
                offset += by_var * (center - mean)
        if ONE_TILE:
            at, inside = tile_addresses(sample, begin + r, last, end, rows, channels, channel, valid, CHANNELS_LAST)
            value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
            grad = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
            result = tile_gradient(value, grad, center, scale, shift, slope, offset, w, e, rb, FORMULA, RELU, AFFINE)
            tl.store(dx + at, result, mask=inside)
        else:
            for row in tl.range(begin, end, BLOCK_R, num_stages=STAGES):
                at, inside = tile_addresses(sample, row + r, last, end, rows, channels, channel, valid, CHANNELS_LAST)
                value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
                grad = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
                result = tile_gradient(
                    value, grad, center, scale, shift, slope, offset, w, e, rb, FORMULA, RELU, AFFINE
                )
                tl.store(dx + at, result, mask=inside)


@triton.jit
def tile_gradient(
    value, grad, center, scale, shift, slope, offset, w, e, rb,
    FORMULA: tl.constexpr, RELU: tl.constexpr, AFFINE: tl.constexpr,
):  # fmt: skip
    """Return dx of a tile."""
    if AFFINE:
        distance, direct = before_activation(value, grad, center, scale, shift, RELU)
        direct *= scale[:, None, :]
    else:
        distance = value - center[:, None, :]
        direct, _, _, _, _ = evonorm_gradients(value, grad, scale[:, None, :], e[:, None, :], rb[:, None, :], FORMULA)
        direct *= w[:, None, :]
    return direct + distance * slope[:, None, :] + offset[:, None, :]


@triton.jit
def store_gradients(
    gradients, terms, parts, channels, channel, group, valid, leads, mix,
    TERMS: tl.constexpr, FORMULA: tl.constexpr, BATCH: tl.constexpr, GROUP_PAD: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write the gradients of bias, weight and the formula's two parameters from the terms of all parts."""
    width = tl.maximum(channels, 4)
    bias = merged_term(terms, 0, parts, channels, channel, valid, 0, TERMS, BLOCK_P, BLOCK_C)
    weight = merged_term(terms, 0, parts, channels, channel, valid, 1, TERMS, BLOCK_P, BLOCK_C)
    tl.store(gradients + channel, bias, mask=valid)
    tl.store(gradients + width + channel, weight, mask=valid)
    if FORMULA == "switch":
        for kind in tl.static_range(2):
            # The logits' gradients sum up to zero, as the weights do to one.
            first = mix[3 * kind] * tl.sum(
                merged_term(terms, 0, parts, channels, channel, valid, 4 + 2 * kind, TERMS, BLOCK_P, BLOCK_C), axis=0
            )
            second = mix[3 * kind + 1] * tl.sum(
                merged_term(terms, 0, parts, channels, channel, valid, 5 + 2 * kind, TERMS, BLOCK_P, BLOCK_C), axis=0
            )
            tl.store(gradients + (2 + kind) * width, first)
            tl.store(gradients + (2 + kind) * width + 1, second)
            if BATCH != "none":
                tl.store(gradients + (2 + kind) * width + 2, -first - second)
    elif FORMULA == "batch_group":
        shift = merged_term(terms, 0, parts, channels, channel, valid, 2, TERMS, BLOCK_P, BLOCK_C)
        scale = merged_term(terms, 0, parts, channels, channel, valid, 3, TERMS, BLOCK_P, BLOCK_C)
        shift = group_sum(shift, GROUP_PAD, BLOCK_C)
        scale = group_sum(scale, GROUP_PAD, BLOCK_C)
        tl.store(gradients + 2 * width + group, scale, mask=leads)
        tl.store(gradients + 3 * width + group, shift, mask=leads)
    elif TERMS > 3:
        third = merged_term(terms, 0, parts, channels, channel, valid, 3, TERMS, BLOCK_P, BLOCK_C)
        tl.store(gradients + 2 * width + channel, third, mask=valid)
