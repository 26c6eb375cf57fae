# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""The formulas of `MomentsSpec`, and their gradients, on the moments of each sample and channel.

Tiles are ``(BLOCK_S, BLOCK_C)``, samples by channels, where a group's channels are adjacent lanes (`tiles.py`); values
of the batch are ``(1, BLOCK_C)`` and broadcast. An output is, in all formulas but EvoNorm's, ``(x - center) * scale +
shift``, so that the gradients of scale and shift, two sums over the rows of a sample, lead to all others:

- ``by_scale = sum(dz * (x - center))`` and ``by_shift = sum(dz)``, where dz is the gradient before the activation;
- `column_terms` are what parameters and statistics of the batch sum up over samples, all of them linear in these two;
- `input_coefficients` are P and Q of ``dx = dz * scale + P * (x - center) + Q``.

EvoNorm's output is ``x / max(batch_std, other) * weight + bias``. Its row sums are four, see `evonorm_gradients`.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def group_total(lanes, GROUP_PAD: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return in each lane of ``(BLOCK_S, BLOCK_C)`` the sum over the lanes of its group."""
    if GROUP_PAD == 1:
        total = lanes
    else:
        grouped = tl.reshape(lanes, (BLOCK_S, BLOCK_C // GROUP_PAD, GROUP_PAD))
        spread = tl.broadcast_to(tl.sum(grouped, axis=2)[:, :, None], (BLOCK_S, BLOCK_C // GROUP_PAD, GROUP_PAD))
        total = tl.reshape(spread, (BLOCK_S, BLOCK_C))
    return total


@triton.jit
def group_moments(
    mean, var, valid, GROUP_SIZE: tl.constexpr, GROUP_PAD: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    """Return each channel's distance from its group's mean, and the group's variance, given its channels' moments."""
    group_mean = group_total(tl.where(valid, mean, 0.0), GROUP_PAD, BLOCK_S, BLOCK_C) / GROUP_SIZE
    distance = tl.where(valid, mean - group_mean, 0.0)
    square = tl.where(valid, var, 0.0) + distance * distance
    return distance, group_total(square, GROUP_PAD, BLOCK_S, BLOCK_C) / GROUP_SIZE


@triton.jit
def softmax3(logits, THREE: tl.constexpr):
    """Return the softmax of two logits and, with THREE, a third, as scalars; without logits, zeros."""
    first = 0.0
    second = 0.0
    third = 0.0
    if logits is not None:
        a = tl.load(logits).to(tl.float32)
        b = tl.load(logits + 1).to(tl.float32)
        top = tl.maximum(a, b)
        if THREE:
            c = tl.load(logits + 2).to(tl.float32)
            top = tl.maximum(top, c)
            third = tl.exp(c - top)
        first = tl.exp(a - top)
        second = tl.exp(b - top)
        total = first + second + third
        first /= total
        second /= total
        third /= total
    return first, second, third


@triton.jit
def coefficients(
    m, v, mu, rb, correction, w, b, e, e2, mix, eps, valid,
    FORMULA: tl.constexpr, BATCH: tl.constexpr, BY_INSTANCE: tl.constexpr,
    GROUP_SIZE: tl.constexpr, GROUP_PAD: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Return scale and shift of each sample and channel; of EvoNorm, the deviation of each sample.

    `m` and `v` are mean and variance of the sample, and `m` is the center; `mu` and `rb` are mean and 1 / deviation of
    the batch, `rb` times r of a renormalization, whose d is `correction`. w, b, e and e2 are weight, bias and the
    formula's two parameters, as lanes of channels; `mix` are the weights of instance, layer and batch, of the means and
    of the variances. A switchable norm takes the batch's variance for `rb`, EvoNorm its deviation.
    """
    if FORMULA == "batch_instance":
        scale = rb * w
        shift = ((m - mu) * rb + correction) * w + b
        if BY_INSTANCE:
            scale = (e * rb + (1.0 - e) * tl.rsqrt(v + eps)) * w
            shift = (m - mu) * (e * rb * w) + b
    elif FORMULA == "switch":
        offset, mixed = mixed_moments(m, v, mu, rb, mix, valid, BATCH, GROUP_SIZE, GROUP_PAD, BLOCK_S, BLOCK_C)
        scale = tl.rsqrt(mixed + eps) * w
        shift = offset * scale + b
    elif FORMULA == "batch_group":
        distance, inverse = second_moments(m, v, mu, rb, w, b, eps, valid, GROUP_SIZE, GROUP_PAD, BLOCK_S, BLOCK_C)
        scale = rb * w * inverse * e
        shift = distance * inverse * e + e2
    else:
        square = v if FORMULA == "evonorm_b0" else v + m * m
        scale = tl.sqrt(square + eps)
        shift = scale
    return scale, shift


@triton.jit
def mixed_moments(
    m, v, mu, var, mix, valid, BATCH: tl.constexpr,
    GROUP_SIZE: tl.constexpr, GROUP_PAD: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Return the distance of `m` from the mixed mean, a mixture of distances lest digits be lost, and the variance."""
    from_layer, layer_var = group_moments(m, v, valid, GROUP_SIZE, GROUP_PAD, BLOCK_S, BLOCK_C)
    offset = mix[1] * from_layer
    mixed = mix[3] * v + mix[4] * layer_var
    if BATCH != "none":
        offset += mix[2] * (m - mu)
        mixed += mix[5] * var
    return offset, mixed


@triton.jit
def second_moments(
    m, v, mu, rb, w, b, eps, valid,
    GROUP_SIZE: tl.constexpr, GROUP_PAD: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Return, of BN's output, each channel's distance from its group's mean, and 1 / deviation of the group."""
    k = rb * w
    distance, var = group_moments(
        (m - mu) * k + b, v * k * k, valid, GROUP_SIZE, GROUP_PAD, BLOCK_S, BLOCK_C
    )  # fmt: skip
    return distance, tl.rsqrt(var + eps)


@triton.jit
def column_terms(
    by_shift, by_scale, m, v, mu, rb, correction, w, b, e, mix, eps, valid,
    FORMULA: tl.constexpr, BATCH: tl.constexpr, BY_INSTANCE: tl.constexpr,
    GROUP_SIZE: tl.constexpr, GROUP_PAD: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Return up to eight terms of each sample and channel to be summed over samples; zeros beyond a formula's own.

    The first two become the gradients of bias and weight.
    """
    zero = by_shift * 0.0
    t0, t1, t2, t3, t4, t5, t6, t7 = by_shift, zero, zero, zero, zero, zero, zero, zero
    if FORMULA == "batch_instance":
        by_batch = by_scale + by_shift * (m - mu)
        t1 = rb * by_batch + correction * by_shift
        t2 = by_batch
        if BY_INSTANCE:
            by_instance = by_scale * tl.rsqrt(v + eps)
            t1 = e * rb * by_batch + (1.0 - e) * by_instance
            t3 = (rb * by_batch - by_instance) * w  # the gate
    elif FORMULA == "switch":
        from_layer, layer_var = group_moments(m, v, valid, GROUP_SIZE, GROUP_PAD, BLOCK_S, BLOCK_C)
        offset, mixed = mixed_moments(m, v, mu, rb, mix, valid, BATCH, GROUP_SIZE, GROUP_PAD, BLOCK_S, BLOCK_C)
        by_mean, by_var, t1 = switch_gradients(by_shift, by_scale, offset, mixed, w, eps)
        # A logit's gradient is its weight times the distance of its statistic from the mixture.
        t2 = by_mean
        t3 = by_var
        t4 = by_mean * offset
        t5 = by_mean * (offset - from_layer)
        t6 = by_var * (v - mixed)
        t7 = by_var * (layer_var - mixed)
    else:
        distance, inverse = second_moments(m, v, mu, rb, w, b, eps, valid, GROUP_SIZE, GROUP_PAD, BLOCK_S, BLOCK_C)
        k = rb * w
        by_normalized, by_mean, by_var = group_gradients(
            by_shift, by_scale, distance, inverse, k, e, GROUP_SIZE, GROUP_PAD, BLOCK_S, BLOCK_C
        )
        # Sums over rows of the gradient of BN's output, and of that times the distance from the batch's mean.
        t0 = by_shift * inverse * e + by_mean + by_var * distance
        t1 = rb * (
            inverse * e * (by_scale + by_shift * (m - mu)) + by_mean * (m - mu) + by_var * (k * v + distance * (m - mu))
        )
        t2 = by_shift
        t3 = inverse * by_normalized
    return t0, t1, t2, t3, t4, t5, t6, t7


@triton.jit
def switch_gradients(by_shift, by_scale, offset, mixed, w, eps):
    """Return the gradients of the mixed mean and variance, and the share of weight's."""
    inverse = tl.rsqrt(mixed + eps)
    by_weight = (by_scale + by_shift * offset) * inverse
    return -by_shift * inverse * w, -0.5 * by_weight * inverse * inverse * w, by_weight


@triton.jit
def group_gradients(
    by_shift, by_scale, distance, inverse, k, e,
    GROUP_SIZE: tl.constexpr, GROUP_PAD: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Return the sums over rows of dz times BN's output about its group's mean, and by the group's mean and variance.

    The latter two as shares of each channel: ``du = dz * inverse * e + (by_mean + by_var * (u - mean)) / rows``.
    """
    by_normalized = by_scale * k + by_shift * distance
    by_mean = -e * inverse / GROUP_SIZE * group_total(by_shift, GROUP_PAD, BLOCK_S, BLOCK_C)
    total = group_total(by_normalized, GROUP_PAD, BLOCK_S, BLOCK_C)
    return by_normalized, by_mean, -e * inverse * inverse * inverse / GROUP_SIZE * total


@triton.jit
def input_coefficients(
    by_shift, by_scale, m, v, mu, rb, squared, total0, total1, total2, total3, w, b, e, mix, eps, valid,
    rows, samples,
    FORMULA: tl.constexpr, BATCH: tl.constexpr, BY_INSTANCE: tl.constexpr,
    GROUP_SIZE: tl.constexpr, GROUP_PAD: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Return P and Q of ``dx = dz * scale + P * (x - m) + Q``.

    `by_shift` and `by_scale` are sums over all rows of the sample, `squared` is ``1 / (batch_var + eps)``, and the
    totals are the first four `column_terms`, summed over the `samples` that share statistics.
    """
    slope = by_shift * 0.0
    offset = slope
    if FORMULA == "batch_instance":
        if BATCH == "batch":
            gate = e if BY_INSTANCE else 1.0
            by_mean = -gate * rb * w * total0 / (rows * samples)
            by_var = -gate * rb * w * squared * total2 / (rows * samples)
            slope += by_var
            offset += by_mean + by_var * (m - mu)
        if BY_INSTANCE:
            inverse = tl.rsqrt(v + eps)
            share = (1.0 - e) * inverse * w / rows
            slope += -share * inverse * inverse * by_scale
            offset += -share * by_shift
    elif FORMULA == "switch":
        from_layer, _layer_var = group_moments(m, v, valid, GROUP_SIZE, GROUP_PAD, BLOCK_S, BLOCK_C)
        distance, mixed = mixed_moments(m, v, mu, rb, mix, valid, BATCH, GROUP_SIZE, GROUP_PAD, BLOCK_S, BLOCK_C)
        by_mean, by_var, _ = switch_gradients(by_shift, by_scale, distance, mixed, w, eps)
        by_layer_mean = mix[1] / GROUP_SIZE * group_total(by_mean, GROUP_PAD, BLOCK_S, BLOCK_C)
        by_layer_var = mix[4] / GROUP_SIZE * group_total(by_var, GROUP_PAD, BLOCK_S, BLOCK_C)
        to_mean = mix[0] * by_mean + by_layer_mean + 2.0 * by_layer_var * from_layer
        to_var = mix[3] * by_var + by_layer_var
        if BATCH == "batch":
            to_mean += (mix[2] * total2 + 2.0 * mix[5] * total3 * (m - mu)) / samples
            to_var += mix[5] * total3 / samples
        slope = 2.0 * to_var / rows
        offset = to_mean / rows
    else:
        distance, inverse = second_moments(m, v, mu, rb, w, b, eps, valid, GROUP_SIZE, GROUP_PAD, BLOCK_S, BLOCK_C)
        k = rb * w
        _, by_mean, by_var = group_gradients(
            by_shift, by_scale, distance, inverse, k, e, GROUP_SIZE, GROUP_PAD, BLOCK_S, BLOCK_C
        )
        slope = by_var * k * k / rows
        offset = (by_mean + by_var * distance) * k / rows
        if BATCH == "batch":
            back = k * rb * total1 / (rows * samples)
            slope -= back
            offset -= k * total0 / (rows * samples) + back * (m - mu)
    return slope, offset


@triton.jit
def evonorm_divisor(x, deviation, e, batch_deviation, FORMULA: tl.constexpr):
    """Return the greater of the batch's deviation and EvoNorm's other, and whether it is the other."""
    if FORMULA == "evonorm_b0":
        other = e * x + deviation
    elif FORMULA == "evonorm_b1":
        other = (x + 1.0) * deviation
    else:
        other = deviation - x
    return tl.maximum(batch_deviation, other), other > batch_deviation


@triton.jit
def evonorm_gradients(x, dy, deviation, e, batch_deviation, FORMULA: tl.constexpr):
    """Return dx over `weight` at fixed statistics, and the gradients of weight, the two deviations, and v1.

    Those of the deviations and of v1 lack the factor ``-weight``, that of the batch's also its square below.
    """
    divisor, is_other = evonorm_divisor(x, deviation, e, batch_deviation, FORMULA)
    inverse = 1.0 / divisor
    quotient = x * inverse
    direct = dy * tl.where(is_other, deviation * inverse * inverse, inverse)
    by_other = tl.where(is_other, dy * quotient * inverse, 0.0)
    by_batch = tl.where(is_other, 0.0, dy * x)
    by_deviation = by_other
    if FORMULA == "evonorm_b1":
        by_deviation = by_other * (x + 1.0)
    return direct, dy * quotient, by_deviation, by_batch, by_other * x
