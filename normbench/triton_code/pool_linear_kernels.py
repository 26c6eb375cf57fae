# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Kernels for the mean over positions and the linear layer after it, which at the end of a network are all latency.

Positions of a sample are rows of CHANNELS, channels_last. Sums are in float32; the mean, and backward its gradient, are
rounded to the dtype of the values where torch rounds them.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def forward(
    x, weight, bias, means, y,
    POSITIONS: tl.constexpr, CHANNELS: tl.constexpr, CLASSES: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Write the means, ``(N, CHANNELS)``, and outputs, ``(N, CLASSES)``, of one sample."""
    sample = tl.program_id(0)
    position = tl.arange(0, BLOCK_P)
    channel = tl.arange(0, BLOCK_C)
    inside = (position < POSITIONS)[:, None] & (channel < CHANNELS)
    at = (sample * POSITIONS + position)[:, None] * CHANNELS + channel
    values = tl.load(x + at, mask=inside, other=0.0)
    k = tl.arange(0, BLOCK_K)
    exists = (k < CLASSES)[:, None] & (channel < CHANNELS)
    factors = tl.load(weight + k[:, None] * CHANNELS + channel, mask=exists, other=0.0)
    shift = tl.zeros([BLOCK_K], tl.float32)
    if bias is not None:
        shift += tl.load(bias + k, mask=k < CLASSES, other=0.0).to(tl.float32)
    mean = (tl.sum(values.to(tl.float32), axis=0) / POSITIONS).to(values.dtype)
    value = tl.sum(factors.to(tl.float32) * mean.to(tl.float32)[None, :], axis=1) + shift
    tl.store(means + sample * CHANNELS + channel, mean, mask=channel < CHANNELS)
    tl.store(y + sample * CLASSES + k, value.to(values.dtype), mask=k < CLASSES)


@triton.jit(do_not_specialize=["samples"])
def backward(
    dy, means, weight, dx, dweight, dbias, samples,
    POSITIONS: tl.constexpr, CHANNELS: tl.constexpr, CLASSES: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, WEIGHT_C: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Write the gradients: the first programs that of a block of the weight, the others that of a sample's values.

    The first take longer: each goes through all samples.
    """
    WEIGHT_BLOCKS: tl.constexpr = (CHANNELS + WEIGHT_C - 1) // WEIGHT_C * ((CLASSES + BLOCK_K - 1) // BLOCK_K)
    program = tl.program_id(0)
    if program < WEIGHT_BLOCKS:
        backward_weight(
            dy, means, dweight, dbias, samples, program, CHANNELS, CLASSES, BLOCK_N, BLOCK_K, WEIGHT_C, STAGES
        )
    else:
        backward_values(dy, weight, dx, program - WEIGHT_BLOCKS, POSITIONS, CHANNELS, CLASSES, BLOCK_C)


@triton.jit
def backward_weight(
    dy, means, dweight, dbias, samples, block,
    CHANNELS: tl.constexpr, CLASSES: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Write the gradient of one block of the weight, and with the first channels that of the bias."""
    BLOCKS_C: tl.constexpr = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    channel = block % BLOCKS_C * BLOCK_C + tl.arange(0, BLOCK_C)
    k = block // BLOCKS_C * BLOCK_K + tl.arange(0, BLOCK_K)
    total = tl.zeros([BLOCK_K, BLOCK_C], tl.float32)
    bias_total = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    for start in tl.range(0, samples, BLOCK_N, num_stages=STAGES):
        sample = start + tl.arange(0, BLOCK_N)
        there = (sample < samples)[:, None]
        grad = tl.load(dy + sample[:, None] * CLASSES + k, mask=there & (k < CLASSES), other=0.0)
        mean = tl.load(means + sample[:, None] * CHANNELS + channel, mask=there & (channel < CHANNELS), other=0.0)
        total = tl.dot(tl.trans(grad), mean, total)
        bias_total += grad.to(tl.float32)
    exists = (k < CLASSES)[:, None] & (channel < CHANNELS)
    tl.store(dweight + k[:, None] * CHANNELS + channel, total.to(dweight.dtype.element_ty), mask=exists)
    if dbias is not None:
        bias_grad = tl.sum(bias_total, axis=0).to(dbias.dtype.element_ty)
        if block % BLOCKS_C == 0:
            tl.store(dbias + k, bias_grad, mask=k < CLASSES)


@triton.jit
def backward_values(
    dy, weight, dx, sample,
    POSITIONS: tl.constexpr, CHANNELS: tl.constexpr, CLASSES: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write the gradient of one sample's values, the same at each position; a thread has its channels to itself."""
    channel = tl.arange(0, BLOCK_C)
    inside = channel < CHANNELS
    total = tl.zeros([BLOCK_C], tl.float32)
    for k in range(CLASSES):
        factors = tl.load(weight + k * CHANNELS + channel, mask=inside, other=0.0).to(tl.float32)
        total += tl.load(dy + sample * CLASSES + k).to(tl.float32) * factors
    value = total.to(dx.dtype.element_ty).to(tl.float32) / POSITIONS
    for position in range(POSITIONS):
        at = (sample * POSITIONS + position) * CHANNELS + channel
        tl.store(dx + at, value.to(dx.dtype.element_ty), mask=inside)
