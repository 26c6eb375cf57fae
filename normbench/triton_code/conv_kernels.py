# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Kernels for convolutions between layers, 3x3 or 1x1, stride 1 or 2: matrix products whose operands are gathered.

A row is a position; the products run over the taps of the kernel and the channels, one tap and BLOCK_K channels at a
time, in one flat loop, so that loads of the next tap are under way while the last is multiplied. Which taps of a row
lie within the image is found once and kept as a bit for each tap. Where a row has nothing to read it reads the first
element instead of nothing: a masked load that is made ahead of its time still forms its address.

Memory is ``(images, height, width, channels)``, weights ``(channels_out, kernel, kernel, channels)``. All sums have a
fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["images"])
def forward(
    x, weight, bias, y, images,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, CHANNELS_OUT: tl.constexpr,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, RELU: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Compute a tile of BLOCK_M output positions and BLOCK_N output channels; a bias, if any, is added in float32."""
    OUT_H: tl.constexpr = (HEIGHT - 1) // STRIDE + 1
    OUT_W: tl.constexpr = (WIDTH - 1) // STRIDE + 1
    TAPS: tl.constexpr = KERNEL * KERNEL
    BLOCKS: tl.constexpr = CHANNELS // BLOCK_K
    TILES_N: tl.constexpr = CHANNELS_OUT // BLOCK_N
    rows = images * (OUT_H * OUT_W)
    # Tiles of the same positions are neighbours, and find what they share in the cache.
    row = tl.program_id(0) // TILES_N * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(0) % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    top = row // OUT_W % OUT_H * STRIDE - KERNEL // 2
    left = row % OUT_W * STRIDE - KERNEL // 2
    first = ((row // (OUT_H * OUT_W) * HEIGHT + top) * WIDTH + left) * CHANNELS
    inside = taps_inside(top, left, row < rows, HEIGHT, WIDTH, KERNEL)
    filters = weight + column[None, :] * (TAPS * CHANNELS) + k[:, None]
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for step in tl.range(0, TAPS * BLOCKS, num_stages=STAGES):
        tap = step // BLOCKS
        shift = (tap // KERNEL * WIDTH + tap % KERNEL) * CHANNELS + step % BLOCKS * BLOCK_K
        there = (inside >> tap) & 1 != 0
        at = if_there(there, first + shift)
        a = tl.load(x + at[:, None] + k[None, :], mask=there[:, None], other=0.0)
        b = tl.load(filters + step * BLOCK_K)
        total = tl.dot(a, b, total)
    if bias is not None:
        total += tl.load(bias + column).to(tl.float32)[None, :]
    if RELU:
        total = tl.maximum(total, 0.0)
    at = row[:, None] * CHANNELS_OUT + column[None, :]
    tl.store(y + at, total.to(y.dtype.element_ty), mask=(row < rows)[:, None])


@triton.jit
def taps_inside(top, left, exists, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, KERNEL: tl.constexpr):
    """Return a bit for each tap of a row: whether the row exists and the tap, counted from (top, left), is inside."""
    bits = tl.zeros_like(top)
    for tap in tl.static_range(KERNEL * KERNEL):
        y = top + tap // KERNEL
        x = left + tap % KERNEL
        inside = exists & (y >= 0) & (y < HEIGHT) & (x >= 0) & (x < WIDTH)
        bits |= tl.where(inside, 1 << tap, 0)
    return bits


@triton.jit
def if_there(there, at):
    """Return `at`, which are multiples of 16, or the first element's place where there is nothing.

    Triton 3.8 does not see the multiples behind a choice, and would load two bytes at a time.
    """
    return tl.multiple_of(tl.where(there, at, 0), 16)


@triton.jit(do_not_specialize=["images"])
def input_gradient(
    dy, weight, dx, x, images,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, CHANNELS_OUT: tl.constexpr,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, RELU: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Compute the input's gradient, where RELU that before the ReLU which gave the input."""
    input_gradient_tile(
        tl.program_id(0), dy, weight, dx, x, images, HEIGHT, WIDTH, CHANNELS, CHANNELS_OUT, KERNEL, STRIDE, RELU,
        BLOCK_M, BLOCK_N, BLOCK_K, STAGES,
    )  # fmt: skip


@triton.jit
def input_gradient_tile(
    tile, dy, weight, dx, x, images,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, CHANNELS_OUT: tl.constexpr,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, RELU: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Compute BLOCK_M input positions of one parity, times BLOCK_N input channels.

    At stride 2 a position's taps depend on the parity of its coordinates: of 3x3, one for (even, even), two for (even,
    odd) and (odd, even), four for (odd, odd), which come first. So nothing is multiplied that is not there.
    """
    OUT_H: tl.constexpr = (HEIGHT - 1) // STRIDE + 1
    OUT_W: tl.constexpr = (WIDTH - 1) // STRIDE + 1
    BLOCKS: tl.constexpr = CHANNELS_OUT // BLOCK_K
    TILES_N: tl.constexpr = CHANNELS // BLOCK_N
    PAD: tl.constexpr = KERNEL // 2
    MOST: tl.constexpr = (KERNEL - 1) // STRIDE + 1  # taps of a parity, in either direction
    rows = images * (OUT_H * OUT_W)  # positions of each parity, of odd images a few too many
    tiles_of_parity = tl.cdiv(rows, BLOCK_M) * TILES_N
    parity = STRIDE * STRIDE - 1 - tile // tiles_of_parity
    odd_y = parity // STRIDE
    odd_x = parity % STRIDE
    tile %= tiles_of_parity
    row = tile // TILES_N * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    image = row // (OUT_H * OUT_W)
    out_y = row // OUT_W % OUT_H
    out_x = row % OUT_W
    # The taps of a parity are every STRIDE-th from this one on, and the next tap meets the position before.
    first_y = (odd_y + PAD) % STRIDE
    first_x = (odd_x + PAD) % STRIDE
    taps_y = (KERNEL - 1 - first_y + STRIDE) // STRIDE
    taps_x = (KERNEL - 1 - first_x + STRIDE) // STRIDE
    meets_y = out_y + (odd_y + PAD) // STRIDE
    meets_x = out_x + (odd_x + PAD) // STRIDE
    first = ((image * OUT_H + meets_y) * OUT_W + meets_x) * CHANNELS_OUT
    inside = tl.zeros_like(row)
    for tap in tl.static_range(MOST * MOST):
        y = meets_y - tap // MOST
        x_ = meets_x - tap % MOST
        there = (row < rows) & (y >= 0) & (y < OUT_H) & (x_ >= 0) & (x_ < OUT_W)
        inside |= tl.where(there, 1 << tap, 0)
    filters = weight + k[:, None] * (KERNEL * KERNEL * CHANNELS) + column[None, :]
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for step in tl.range(0, taps_y * taps_x * BLOCKS, num_stages=STAGES):
        block = step % BLOCKS
        tap_y = step // BLOCKS // taps_x
        tap_x = step // BLOCKS % taps_x
        there = (inside >> (tap_y * MOST + tap_x)) & 1 != 0
        at = if_there(there, first + (block * BLOCK_K - (tap_y * OUT_W + tap_x) * CHANNELS_OUT))
        a = tl.load(dy + at[:, None] + k[None, :], mask=there[:, None], other=0.0)
        kernel_tap = (first_y + tap_y * STRIDE) * KERNEL + first_x + tap_x * STRIDE
        b = tl.load(filters + (block * BLOCK_K * (KERNEL * KERNEL * CHANNELS) + kernel_tap * CHANNELS))
        total = tl.dot(a, b, total)
    in_y = out_y * STRIDE + odd_y
    in_x = out_x * STRIDE + odd_x
    at = ((image * HEIGHT + in_y) * WIDTH + in_x) * CHANNELS
    there = (row < rows) & (in_y < HEIGHT) & (in_x < WIDTH)
    if RELU:
        value = tl.load(x + at[:, None] + column[None, :], mask=there[:, None], other=0.0)
        total = tl.where(value > 0.0, total, 0.0)
    tl.store(dx + at[:, None] + column[None, :], total.to(dx.dtype.element_ty), mask=there[:, None])


@triton.jit(do_not_specialize=["images"])
def weight_gradient(
    dy, x, shares, images,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, CHANNELS_OUT: tl.constexpr,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT: tl.constexpr, WHOLE_LINES: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Compute shares of the weight's gradient, ``(SPLIT, channels_out, kernel, kernel, channels)``, float32."""
    weight_gradient_tile(
        tl.program_id(0), dy, x, shares, images, HEIGHT, WIDTH, CHANNELS, CHANNELS_OUT, KERNEL, STRIDE,
        BLOCK_M, BLOCK_N, BLOCK_K, SPLIT, WHOLE_LINES, STAGES,
    )  # fmt: skip


@triton.jit
def weight_gradient_tile(
    tile, dy, x, shares, images,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, CHANNELS_OUT: tl.constexpr,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT: tl.constexpr, WHOLE_LINES: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Sum one of SPLIT shares of the positions, for BLOCK_M output channels, one tap and BLOCK_N input channels."""
    OUT_H: tl.constexpr = (HEIGHT - 1) // STRIDE + 1
    OUT_W: tl.constexpr = (WIDTH - 1) // STRIDE + 1
    TAPS: tl.constexpr = KERNEL * KERNEL
    TILES_N: tl.constexpr = CHANNELS // BLOCK_N
    TILES: tl.constexpr = CHANNELS_OUT // BLOCK_M * TAPS * TILES_N
    rows = images * (OUT_H * OUT_W)
    share = tile // TILES  # programs of a share are neighbours: they read the same positions
    tile %= TILES
    column = tile % TILES_N * BLOCK_N + tl.arange(0, BLOCK_N)
    tap = tile // TILES_N % TAPS
    tap_y = tap // KERNEL
    tap_x = tap % KERNEL
    channel = tile // (TILES_N * TAPS) * BLOCK_M + tl.arange(0, BLOCK_M)
    shares += share * (CHANNELS_OUT * TAPS * CHANNELS)
    steps = tl.cdiv(tl.cdiv(rows, BLOCK_K), SPLIT)
    lane = tl.arange(0, BLOCK_K)
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if WHOLE_LINES:
        # A step is some lines of the output, so that nothing but the line within its image changes between steps.
        LINES: tl.constexpr = BLOCK_K // OUT_W
        left = lane % OUT_W * STRIDE + tap_x - KERNEL // 2
        below = lane // OUT_W * STRIDE + tap_y - KERNEL // 2
        offset = (below * WIDTH + left) * CHANNELS
        a_at = dy + lane[None, :] * CHANNELS_OUT + channel[:, None]
        for step in tl.range(share * steps, (share + 1) * steps, num_stages=STAGES):
            if OUT_H % LINES == 0:
                y = below + step % (OUT_H // LINES) * (LINES * STRIDE)
            else:  # whole images
                y = lane // OUT_W % OUT_H * STRIDE + tap_y - KERNEL // 2
            there = (y >= 0) & (y < HEIGHT) & (left >= 0) & (left < WIDTH)
            at = if_there(there, offset)
            a = tl.load(a_at + step * (BLOCK_K * CHANNELS_OUT))
            b_at = x + step * (LINES * STRIDE * WIDTH * CHANNELS)
            b = tl.load(b_at + at[:, None] + column[None, :], mask=there[:, None], other=0.0)
            total = tl.dot(a, b, total)
    else:
        for step in tl.range(share * steps, (share + 1) * steps, num_stages=STAGES):
            row = step * BLOCK_K + lane
            y = row // OUT_W % OUT_H * STRIDE + (tap_y - KERNEL // 2)
            left = row % OUT_W * STRIDE + (tap_x - KERNEL // 2)
            exists = row < rows
            there = exists & (y >= 0) & (y < HEIGHT) & (left >= 0) & (left < WIDTH)
            at = if_there(there, ((row // (OUT_H * OUT_W) * HEIGHT + y) * WIDTH + left) * CHANNELS)
            at_grad = if_there(exists, row * CHANNELS_OUT)
            a = tl.load(dy + at_grad[None, :] + channel[:, None], mask=exists[None, :], other=0.0)
            b = tl.load(x + at[:, None] + column[None, :], mask=there[:, None], other=0.0)
            total = tl.dot(a, b, total)
    tl.store(shares + channel[:, None] * (TAPS * CHANNELS) + tap * CHANNELS + column[None, :], total)


@triton.jit(do_not_specialize=["images", "input_tiles"])
def backward(
    dy, weight, dx, x, shares, images, input_tiles,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, CHANNELS_OUT: tl.constexpr,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, RELU: tl.constexpr,
    INPUT_M: tl.constexpr, INPUT_N: tl.constexpr, INPUT_K: tl.constexpr, INPUT_STAGES: tl.constexpr,
    WEIGHT_M: tl.constexpr, WEIGHT_N: tl.constexpr, WEIGHT_K: tl.constexpr, SPLIT: tl.constexpr,
    WHOLE_LINES: tl.constexpr, WEIGHT_STAGES: tl.constexpr,
):  # fmt: skip
    """Compute both gradients in one launch: the programs of one fill the processors that the other leaves idle."""
    tile = tl.program_id(0)
    if tile < input_tiles:
        input_gradient_tile(
            tile, dy, weight, dx, x, images, HEIGHT, WIDTH, CHANNELS, CHANNELS_OUT, KERNEL, STRIDE, RELU,
            INPUT_M, INPUT_N, INPUT_K, INPUT_STAGES,
        )  # fmt: skip
    else:
        weight_gradient_tile(
            tile - input_tiles, dy, x, shares, images, HEIGHT, WIDTH, CHANNELS, CHANNELS_OUT, KERNEL, STRIDE,
            WEIGHT_M, WEIGHT_N, WEIGHT_K, SPLIT, WHOLE_LINES, WEIGHT_STAGES,
        )  # fmt: skip
