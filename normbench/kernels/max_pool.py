"""The maximum over windows of 2 x 2 pixels as a differentiable operation: what it allocates, keeps and launches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normbench.kernels.launch import launch
from normbench.kernels.support import DTYPES, MAX_ELEMENTS, is_channels_last, unsupported_device_reason
from normbench.kernels.tiling import ceil_div

_BLOCK = 1024
_WARPS = 4


def can_pool_maxima(x: Tensor) -> bool:
    """Return whether `pool_maxima` can run on `x`, ``(N, C, H, W)``."""
    if x.dtype not in DTYPES or x.ndim != 4 or x.numel() == 0 or min(x.shape[2:]) < 2:
        return False
    return x.numel() <= MAX_ELEMENTS // 2 and is_channels_last(x) and unsupported_device_reason(x.device) is None


def pool_maxima(x: Tensor) -> Tensor:
    """Return the maxima of `x`, ``(N, C, H, W)``, channels_last, over windows of 2 x 2: ``(N, C, H // 2, W // 2)``.

    The bits are those of torch, forward and backward: of equal values the first has the gradient, a NaN is passed on, a
    last odd row or column has no part. Keeps a byte per maximum for the backward pass. Captures in a CUDA graph.

    Raises:
        ValueError: `can_pool_maxima` says no.
    """
    if not can_pool_maxima(x):
        raise ValueError("no kernel for this input: see can_pool_maxima")
    y: Tensor = MaxPool.apply(x)
    return y


class MaxPool(torch.autograd.Function):
    """The maxima with the gradient of the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the maxima and keep which pixels they are."""
        y, winners = forward(x)
        ctx.save_for_backward(winners)
        ctx.size = x.shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the gradient of the input."""
        (winners,) = ctx.saved_tensors
        return backward(grad, winners, ctx.size)


def forward(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maxima, and which pixel of its window each is, uint8; both ``(N, C, H // 2, W // 2)``."""
    from normbench.triton_code import max_pool_kernels

    samples, channels, height, width = x.shape
    size = (samples, channels, height // 2, width // 2)
    y, winners = (
        torch.empty(size, dtype=dtype, device=x.device, memory_format=torch.channels_last)
        for dtype in (x.dtype, torch.uint8)
    )
    launch(
        max_pool_kernels.forward, (ceil_div(y.numel(), _BLOCK),),
        x, y, winners, y.numel(),
        HEIGHT=height, WIDTH=width, CHANNELS=channels, BLOCK=_BLOCK, num_warps=_WARPS,
    )  # fmt: skip
    return y, winners


def backward(grad: Tensor, winners: Tensor, size: torch.Size) -> Tensor:
    """Return the gradient of an input of this size, channels_last."""
    from normbench.triton_code import max_pool_kernels

    samples, channels, height, width = size
    grad = grad.contiguous(memory_format=torch.channels_last)
    dx = torch.empty(size, dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last)
    count = samples * ceil_div(height, 2) * ceil_div(width, 2) * channels
    launch(
        max_pool_kernels.backward, (ceil_div(count, _BLOCK),),
        grad, winners, dx, count,
        HEIGHT=height, WIDTH=width, CHANNELS=channels, BLOCK=_BLOCK, num_warps=_WARPS,
    )  # fmt: skip
    return dx
