"""The convolution between layers as a differentiable operation: what it allocates, keeps and launches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normbench.kernels.conv_plan import ConvShape, forward_tile, input_tile, weight_tile
from normbench.kernels.launch import launch
from normbench.kernels.norm_activation import summed
from normbench.kernels.support import HALF_DTYPES, MAX_ELEMENTS, is_channels_last, unsupported_device_reason
from normbench.kernels.tiling import ceil_div

CHANNELS_MULTIPLE = 16
"""No side of a tensor core's product is shorter; other numbers of channels are left to cuDNN."""


class GradientShares:
    """Takes the gradient of a weight as float32 shares that are still to be summed, in place of ``weight.grad``.

    Whoever has given a weight one of these as its attribute `gradient_shares` sums them, in their order.
    """

    def __init__(self) -> None:
        self.tensor: Tensor | None = None
        """``(shares, C_out, kernel, kernel, C)``, contiguous; None until there is a gradient."""

    def add(self, shares: Tensor) -> None:
        """Take `shares` too: of a weight that is used twice."""
        self.tensor = shares if self.tensor is None else torch.cat([self.tensor, shares])


def can_convolve(x: Tensor, weight: Tensor, strides: tuple[int, int], dtype: torch.dtype) -> bool:
    """Return whether `convolve` can run on `x` and `weight`, both cast to `dtype`."""
    if dtype not in HALF_DTYPES or x.ndim != 4 or weight.ndim != 4 or strides not in ((1, 1), (2, 2)):
        return False
    channels_out, channels, height, width = weight.shape
    if (height, width) not in ((1, 1), (3, 3)) or channels != x.shape[1]:
        return False
    if channels % CHANNELS_MULTIPLE or channels_out % CHANNELS_MULTIPLE or not x.numel():
        return False
    num_outputs = x[:, 0].numel() * channels_out  # at stride 1; enough for all rows, rounded up to whole tiles
    fits = max(x.numel(), num_outputs) <= MAX_ELEMENTS and is_channels_last(x) and is_channels_last(weight)
    return fits and unsupported_device_reason(x.device) is None


def convolve(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """Convolve `x` with zeros around it, half the kernel's size; products are summed in float32.

    Captures in a CUDA graph; the same input gives the same bits, whatever else runs.

    Args:
        x: ``(N, C, H, W)``, channels_last, bfloat16 or float16.
        weight: ``(C_out, C, 3, 3)`` or ``(C_out, C, 1, 1)``, channels_last, in the dtype of `x`.
        stride: 1 or 2.

    Returns:
        ``(N, C_out, H', W')``, channels_last, ``H' = (H - 1) // stride + 1``.

    Raises:
        ValueError: `can_convolve` says no.
    """
    if x.dtype != weight.dtype or not can_convolve(x, weight, (stride, stride), x.dtype):
        raise ValueError("no kernel for this input and weight: see can_convolve")
    y: Tensor = Convolution.apply(x, weight, stride)
    return y


class Convolution(torch.autograd.Function):
    """The convolution with the gradients of input and weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        """Return the output, and keep input and weight."""
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.sink = stride, getattr(weight, "gradient_shares", None)
        return forward(x, weight, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return both gradients, or leave the weight's in shares with whoever takes them."""
        x, weight = ctx.saved_tensors
        grad = grad.to(x.dtype).contiguous(memory_format=torch.channels_last)
        needs_input, needs_weight, _ = ctx.needs_input_grad
        dx = dw = None
        if needs_weight:
            shares = weight_gradient(grad, x, weight, ctx.stride)
            if ctx.sink is None:
                dw = total(shares, weight)
            else:
                ctx.sink.add(shares)
        if needs_input:
            dx = input_gradient(grad, weight, x, ctx.stride)
        return dx, dw, None


def forward(x: Tensor, weight: Tensor, stride: int, *, runs: int = 1) -> Tensor:
    """Return the output of `runs` runs, ``(runs * N, C_out, H', W')``, channels_last.

    `x` is ``(runs * N, C, H, W)``, `weight` ``(runs * C_out, C, kernel, kernel)``; both channels_last.
    """
    from normbench.kernels import conv_kernels

    shape = shape_of(x, weight, stride, runs)
    tile = forward_tile(shape)
    y = x.new_empty((len(x), *shape.out_size, shape.channels_out))
    launch(
        conv_kernels.forward, (ceil_div(shape.rows, tile.m) * (shape.channels_out // tile.n), runs),
        x, weight, y, shape.images,
        RELU=False, BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=tile.k, STAGES=tile.stages,
        **shape.constants, num_warps=tile.num_warps,
    )  # fmt: skip
    return y.permute(0, 3, 1, 2)


def input_gradient(grad: Tensor, weight: Tensor, x: Tensor, stride: int, *, runs: int = 1) -> Tensor:
    """Return the gradient of `x`, laid out as `x`; see `forward` for the shapes."""
    from normbench.kernels import conv_kernels

    shape = shape_of(x, weight, stride, runs)
    tile = input_tile(shape)
    dx = torch.empty_like(x)
    tiles = ceil_div(shape.rows, tile.m) * (shape.channels // tile.n)
    launch(
        conv_kernels.input_gradient, (tiles * stride**2, runs),
        grad, weight, dx, x, shape.images,
        RELU=False, BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=tile.k, STAGES=tile.stages,
        **shape.constants, num_warps=tile.num_warps,
    )  # fmt: skip
    return dx


def weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int, *, runs: int = 1) -> Tensor:
    """Return the gradient of `weight` in float32 shares, ``(runs * shares, C_out, kernel, kernel, C)``."""
    from normbench.kernels import conv_kernels

    shape = shape_of(x, weight, stride, runs)
    tile, num_shares = weight_tile(shape)
    kernel = shape.kernel
    shares = x.new_empty((runs * num_shares, shape.channels_out, kernel, kernel, shape.channels), dtype=torch.float32)
    tiles = shape.channels_out // tile.m * kernel**2 * (shape.channels // tile.n)
    launch(
        conv_kernels.weight_gradient, (tiles * num_shares, runs),
        grad, x, shares, shape.images,
        BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=tile.k, SPLIT=num_shares, STAGES=tile.stages,
        **shape.constants, num_warps=tile.num_warps,
    )  # fmt: skip
    return shares


def total(shares: Tensor, weight: Tensor) -> Tensor:
    """Return the sum of a run's `shares` as a gradient of `weight`: in its shape and dtype, channels_last."""
    channels_out, channels, kernel, _ = weight.shape
    flat = shares.view(len(shares), 1, -1)
    return summed(flat, weight.dtype).view(channels_out, kernel, kernel, channels).permute(0, 3, 1, 2)


def shape_of(x: Tensor, weight: Tensor, stride: int, runs: int) -> ConvShape:
    """Return the shape of a launch."""
    images, channels, height, width = x.shape
    return ConvShape(images // runs, height, width, channels, len(weight) // runs, weight.shape[2], stride, runs)
