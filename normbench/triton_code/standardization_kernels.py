# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Kernels for weight standardization: one program for each filter of all layers, forward and backward.

A filter is all weights of one output channel, adjacent in memory in either format. With ``d = w - mean(w)`` over it,
the weight that convolves is ``d * scale * gain``, where `scale` depends on ``q = sum(d^2)`` alone. So the gradient is
``gain * (scale * (grad - mean(grad)) - slope * sum(grad * d) * d)`` with ``slope = -2 * scale'(q)``, and `statistics`
keep mean, scale and slope of each filter.
"""

from __future__ import annotations

import triton
import triton.language as tl

from normbench.triton_code.train_step_kernels import SHARES_AT_ONCE


@triton.jit
def standardize(
    weights, outputs, gains, places, statistics, constant, factor,
    SCALED: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write a filter's standardized weights, in TYPE, and its statistics."""
    row, index, fan_in = filter_place(places)
    w = load_filter(weights, index, fan_in, tl.float32, BLOCK)
    mean = tl.sum(w, axis=0) / fan_in
    distance = tl.where(tl.arange(0, BLOCK) < fan_in, w - mean, 0.0)
    square = tl.sum(distance * distance, axis=0)
    if SCALED:
        scale = factor * tl.rsqrt(tl.maximum(square, constant))
        slope = tl.where(square >= constant, scale / tl.maximum(square, constant), 0.0)
    else:
        std = tl.sqrt(square / (fan_in - 1))
        scale = 1.0 / (std + constant)
        # As in torch, a filter without any deviation passes no gradient through its deviation.
        slope = tl.where(std > 0.0, scale * scale / (tl.where(std > 0.0, std, 1.0) * (fan_in - 1)), 0.0)
    store_filter(outputs, index, fan_in, distance * (scale * load_gain(gains, index, SCALED)), TYPE, BLOCK)
    tl.store(statistics + 3 * row, mean)
    tl.store(statistics + 3 * row + 1, scale)
    tl.store(statistics + 3 * row + 2, slope)


@triton.jit
def standardize_backward(
    weights, grads, num_shares, dweights, gains, dgains, places, statistics,
    SCALED: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradient of a filter's weights, and of its gain where SCALED, from that in TYPE of what convolved."""
    row, index, fan_in = filter_place(places)
    w = load_filter(weights, index, fan_in, tl.float32, BLOCK)
    grad = load_gradient(grads, num_shares, places, index, fan_in, TYPE, BLOCK)
    mean = tl.load(statistics + 3 * row)
    scale = tl.load(statistics + 3 * row + 1)
    slope = tl.load(statistics + 3 * row + 2)
    gain = load_gain(gains, index, SCALED)
    distance = tl.where(tl.arange(0, BLOCK) < fan_in, w - mean, 0.0)
    product = tl.sum(grad * distance, axis=0)
    centered = grad - tl.sum(grad, axis=0) / fan_in
    dw = gain * (scale * centered - slope * product * distance)
    store_filter(dweights, index, fan_in, dw, tl.float32, BLOCK)
    if SCALED:
        tl.store(tl.load(dgains + row).to(tl.pointer_type(tl.float32)) + index, product * scale)


@triton.jit
def filter_place(places):
    """Return this program's row in the tables, its filter's number within the layer, and the filter's elements."""
    row = tl.program_id(0)
    return row, tl.load(places + 3 * row), tl.load(places + 3 * row + 1)


@triton.jit
def load_gain(gains, index, SCALED: tl.constexpr):
    """Return the filter's learned gain; 1 where there is none."""
    gain = 1.0
    if SCALED:
        gain = tl.load(tl.load(gains + tl.program_id(0)).to(tl.pointer_type(tl.float32)) + index)
    return gain


@triton.jit
def load_gradient(grads, num_shares, places, index, fan_in, TYPE: tl.constexpr, BLOCK: tl.constexpr):
    """Return the gradient of a standardized filter in float32: that in TYPE, or the sum of float32 shares, rounded."""
    row = tl.program_id(0)
    shares = tl.load(num_shares + row)
    if shares > 0:
        lane = tl.arange(0, BLOCK)
        stride = tl.load(places + 3 * row + 2)
        layer = tl.load(grads + row).to(tl.pointer_type(tl.float32))
        grad = tl.zeros([BLOCK], tl.float32)
        for share in range(0, shares, SHARES_AT_ONCE):
            for ahead in tl.static_range(SHARES_AT_ONCE):
                begin = tl.multiple_of(layer + (share + ahead) * stride + index * fan_in, 16)
                count = tl.multiple_of(tl.where(share + ahead < shares, fan_in, 0), 16)
                grad += tl.load(begin + lane, mask=lane < count, other=0.0)
        grad = grad.to(TYPE).to(tl.float32)
    else:
        grad = load_filter(grads, index, fan_in, TYPE, BLOCK)
    return grad


@triton.jit
def load_filter(layers, index, fan_in, TYPE: tl.constexpr, BLOCK: tl.constexpr):
    """Return a filter in float32, by the widest loads where it begins at a multiple of 16 bytes.

    Zero beyond its end, and all of it where the layer's address is 0.
    """
    address = tl.load(layers + tl.program_id(0))
    layer = address.to(tl.pointer_type(TYPE))
    lane = tl.arange(0, BLOCK)
    # What `multiple_of` marks is made in its branch: the mark is on the value, wherever else it is used.
    if fan_in % 8 == 0:
        count = tl.multiple_of(tl.where(address == 0, 0, fan_in), 8)
        value = tl.load(tl.multiple_of(layer + index * fan_in, 16) + lane, mask=lane < count, other=0.0)
    else:
        value = tl.load(layer + index * fan_in + lane, mask=(lane < fan_in) & (address != 0), other=0.0)
    return value.to(tl.float32)


@triton.jit
def store_filter(layers, index, fan_in, value, TYPE: tl.constexpr, BLOCK: tl.constexpr):
    """Write a filter, as `load_filter` reads it."""
    layer = tl.load(layers + tl.program_id(0)).to(tl.pointer_type(TYPE))
    lane = tl.arange(0, BLOCK)
    if fan_in % 8 == 0:
        count = tl.multiple_of(fan_in // 8 * 8, 8)
        tl.store(tl.multiple_of(layer + index * fan_in, 16) + lane, value, mask=lane < count)
    else:
        tl.store(layer + index * fan_in + lane, value, mask=lane < fan_in)
