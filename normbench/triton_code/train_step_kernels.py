# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Kernels for the parts of a training step around the network: the batch, the loss, the optimizer.

Each replaces a dozen or so small launches, which at batch 64 take as long as the network's convolutions.
"""

from __future__ import annotations

import triton
import triton.language as tl

SHARES_AT_ONCE = tl.constexpr(4)
"""Shares of a gradient that are on their way at once."""


@triton.jit
def assemble(
    stored, labels, order, step_in_epoch, shift_x, shift_y, flip, images_out, labels_out, batch_size,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gather, crop, flip and normalize one image of the batch."""
    position = tl.program_id(0)
    index = tl.load(order + tl.load(step_in_epoch) * batch_size + position)
    pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = pixel // WIDTH
    x = pixel % WIDTH
    if shift_x is not None:
        x = tl.where(tl.load(flip + index) != 0, WIDTH - 1 - x, x)
        x = reflect(x + tl.load(shift_x + index).to(tl.int32), WIDTH)
        y = reflect(y + tl.load(shift_y + index).to(tl.int32), HEIGHT)
    channel = tl.arange(0, LANES)
    there = (pixel < HEIGHT * WIDTH)[:, None] & (channel < CHANNELS)[None, :]
    source = stored + index * (HEIGHT * WIDTH * CHANNELS) + (y * WIDTH + x)[:, None] * CHANNELS + channel[None, :]
    value = tl.load(source, mask=there, other=0).to(tl.float32)
    value = (tl.div_rn(value, 255.0) - 0.5) * 2.0
    target = images_out + (position * HEIGHT * WIDTH + pixel)[:, None] * CHANNELS + channel[None, :]
    tl.store(target, value, mask=there)
    tl.store(labels_out + position, tl.load(labels + index), mask=tl.program_id(1) == 0)


@triton.jit
def reflect(position, SIZE: tl.constexpr):
    """Fold positions beyond 0 .. SIZE - 1 back, the border pixel being the mirror."""
    return (SIZE - 1) - tl.abs((SIZE - 1) - tl.abs(position))


@triton.jit(do_not_specialize=["rows", "classes"])
def cross_entropy(
    logits, labels, gradient, losses, num_correct, step_in_epoch, global_step, rows, classes, smoothing,
    UNROLLED: tl.constexpr, BLOCK_R: tl.constexpr, NUM_BLOCKS: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the mean loss, record loss and correct answers, and count the step; one program.

    A thread has whole rows and goes through their classes, so that only the last two sums cross threads. It reads the
    logits three times, from the cache after the first. UNROLLED is `classes`, or None where they are too many for that.
    """
    count = classes if UNROLLED is None else UNROLLED
    step = tl.load(step_in_epoch)  # the counters are under way while the logits are waited for
    steps = tl.load(global_step)
    correct_before = tl.load(num_correct)
    share = 1.0 / rows
    target_elsewhere = smoothing / classes
    target_at_label = 1.0 - smoothing + target_elsewhere
    loss_sum = tl.zeros([BLOCK_R], tl.float32)
    correct = tl.zeros([BLOCK_R], tl.int32)
    for block in range(NUM_BLOCKS):  # one block, the rule, is compiled to no loop
        row = block * BLOCK_R + tl.arange(0, BLOCK_R)
        there = row < rows
        label = tl.load(labels + row, mask=there, other=0).to(tl.int32)
        first = row * classes
        best = tl.full([BLOCK_R], float("-inf"), tl.float32)
        answer = tl.zeros([BLOCK_R], tl.int32)
        for k in range(count):
            z = tl.load(logits + first + k, mask=there, other=0.0).to(tl.float32)
            answer = tl.where(z > best, k, answer)
            best = tl.where(z > best, z, best)
        total = tl.zeros([BLOCK_R], tl.float32)
        for k in range(count):
            z = tl.load(logits + first + k, mask=there, other=0.0).to(tl.float32)
            total += tl.exp(z - best)
        log_total = tl.log(total)
        scale = share / total
        row_loss = tl.zeros([BLOCK_R], tl.float32)
        for k in range(count):
            z = tl.load(logits + first + k, mask=there, other=0.0).to(tl.float32) - best
            target = tl.where(label == k, target_at_label, target_elsewhere)
            row_loss -= target * (z - log_total)
            tl.store(gradient + first + k, tl.exp(z) * scale - target * share, mask=there)
        loss_sum += tl.where(there, row_loss, 0.0)
        correct += tl.where(there & (answer == label), 1, 0)
    tl.store(losses + step, tl.sum(loss_sum, axis=0) * share)
    tl.store(num_correct, correct_before + tl.sum(correct, axis=0))
    tl.store(step_in_epoch, step + 1)
    tl.store(global_step, steps + 1)


@triton.jit
def update_adam(
    weights, first, second, gradients, num_shares, copies, places, settings, learning_rates, corrections, num_steps,
    slow, decays,
    BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr, DECOUPLED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Make one step of Adam, or AdamW where DECOUPLED; `num_steps` counts it, `train_step.Blocks` has the tables.

    The betas are constants because 1 - beta2 would lose five digits in float32.
    """
    block = tl.program_id(0)
    at = block * BLOCK + tl.arange(0, BLOCK)
    weight = tl.load(weights + at)
    m = tl.load(first + at)
    v = tl.load(second + at)
    step = tl.load(num_steps) - 1
    rate = tl.load(learning_rates + step)
    correction = tl.load(corrections + 2 * step)
    root_correction = tl.load(corrections + 2 * step + 1)
    rate_factor = tl.load(settings + 2 * block)
    weight_decay = tl.load(settings + 2 * block + 1)
    gradient = load_gradient(
        gradients, num_shares, copies, places, BLOCK
    )  # all loads are under way before one is waited for
    rate *= rate_factor
    step_size = rate / correction
    if DECOUPLED:
        weight *= 1.0 - rate * weight_decay
    else:
        gradient += weight_decay * weight
    m += (1.0 - BETA1) * (gradient - m)
    v = BETA2 * v + (1.0 - BETA2) * gradient * gradient
    weight -= step_size * m / (tl.sqrt(v) / root_correction + EPS)
    if slow is not None:
        weight = look_ahead(slow + at, tl.load(decays + step), weight)
    tl.store(first + at, m)
    tl.store(second + at, v)
    tl.store(weights + at, weight)
    store_copy(copies, places, weight, BLOCK)


@triton.jit
def update_sgd(
    weights,
    momenta,
    gradients,
    num_shares,
    copies,
    places,
    settings,
    learning_rates,
    num_steps,
    slow,
    decays,
    momentum,
    BLOCK: tl.constexpr,
):
    """Make one step of SGD with Nesterov's momentum, as torch writes it; plain SGD at momentum 0."""
    block = tl.program_id(0)
    at = block * BLOCK + tl.arange(0, BLOCK)
    weight = tl.load(weights + at)
    moving = tl.load(momenta + at)
    rate = tl.load(learning_rates + tl.load(num_steps) - 1)
    rate_factor = tl.load(settings + 2 * block)
    weight_decay = tl.load(settings + 2 * block + 1)
    gradient = load_gradient(gradients, num_shares, copies, places, BLOCK) + weight_decay * weight
    rate *= rate_factor
    moving = momentum * moving + gradient
    weight -= rate * (gradient + momentum * moving)
    if slow is not None:
        weight = look_ahead(slow + at, tl.load(decays + tl.load(num_steps) - 1), weight)
    tl.store(momenta + at, moving)
    tl.store(weights + at, weight)
    store_copy(copies, places, weight, BLOCK)


@triton.jit
def look_ahead(slow, decay, weight):
    """Return `weight`, or after every few steps what the slow weights, at the addresses `slow`, have moved to."""
    if decay >= 0:
        weight += decay * (tl.load(slow) - weight)
        tl.store(slow, weight)
    return weight


@triton.jit
def load_gradient(gradients, num_shares, copies, places, BLOCK: tl.constexpr):
    """Load this program's block of a gradient, in float32: bf16 and laid out as the copy where there is one.

    Shares are summed in their order, and the sum is rounded as a gradient of the copy would be.
    """
    block = tl.program_id(0)
    address = tl.load(gradients + block)
    copy = tl.load(copies + block)
    start = tl.load(places + 2 * block)
    count = tl.load(places + 2 * block + 1)
    shares = tl.load(num_shares + block)
    if shares > 0:
        gradient = sum_shares(address, start, count, shares, BLOCK).to(tl.bfloat16).to(tl.float32)
    elif copy == 0:
        gradient = load_block(address, start, count, tl.float32, BLOCK)
    else:
        gradient = load_block(address, start, count, tl.bfloat16, BLOCK)
    return gradient


@triton.jit
def sum_shares(address, start, count, shares, BLOCK: tl.constexpr):
    """Sum a block of float32 shares, each of `count` elements, a multiple of 16; some are on their way at once."""
    lane = tl.arange(0, BLOCK)
    there = lane < tl.multiple_of(count - start, 16)
    first = tl.multiple_of(address.to(tl.pointer_type(tl.float32)) + start, 16) + lane
    total = tl.zeros([BLOCK], tl.float32)
    for share in range(0, shares, SHARES_AT_ONCE):
        for ahead in tl.static_range(SHARES_AT_ONCE):
            at = first + tl.multiple_of((share + ahead) * count, 16)
            total += tl.load(at, mask=there & (share + ahead < shares), other=0.0)
    return total


@triton.jit
def load_block(address, start, count, TYPE: tl.constexpr, BLOCK: tl.constexpr):
    """Load a block, by the widest instructions if it is whole; zero beyond its end, and all of it at address 0."""
    tensor = address.to(tl.pointer_type(TYPE))
    count = tl.where(address == 0, 0, count)
    lane = tl.arange(0, BLOCK)
    if start + BLOCK <= count:
        value = tl.load(tl.multiple_of(tensor + start, 16) + lane)
    else:
        value = tl.load(tensor + start + lane, mask=start + lane < count, other=0.0)
    return value.to(tl.float32)


@triton.jit
def store_copy(copies, places, weight, BLOCK: tl.constexpr):
    """Write this program's block of the bf16 copy, if there is one."""
    block = tl.program_id(0)
    address = tl.load(copies + block)
    start = tl.load(places + 2 * block)
    count = tl.load(places + 2 * block + 1)
    copy = address.to(tl.pointer_type(tl.bfloat16))
    count = tl.where(address == 0, 0, count)
    lane = tl.arange(0, BLOCK)
    if start + BLOCK <= count:
        tl.store(tl.multiple_of(copy + start, 16) + lane, weight)
    else:
        tl.store(copy + start + lane, weight, mask=start + lane < count)
