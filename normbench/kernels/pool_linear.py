"""The mean over positions with a linear layer as one differentiable operation: what it allocates and launches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normbench.kernels import tiling
from normbench.kernels.launch import launch
from normbench.kernels.support import HALF_DTYPES, MAX_ELEMENTS, is_channels_last, unsupported_device_reason
from normbench.kernels.tiling import ceil_div, power_of_two

MAX_POOLED = 32768
"""Elements of a sample whose mean over positions one program takes, and of the weight that multiplies it."""


def can_pool_linear(x: Tensor, weight_shape: torch.Size, dtype: torch.dtype) -> bool:
    """Return whether `pooled_linear` can run on `x`, with a weight of this shape in `dtype`."""
    if x.ndim != 4 or x.numel() == 0 or weight_shape[1:] != x.shape[1:2]:
        return False
    if x.dtype != dtype or dtype not in HALF_DTYPES:
        return False
    _, channels, height, width = x.shape
    lanes = power_of_two(channels) * power_of_two(max(height * width, weight_shape[0]))
    fits = x.numel() <= MAX_ELEMENTS and lanes <= MAX_POOLED and is_channels_last(x)
    return fits and unsupported_device_reason(x.device) is None


def pooled_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear layer to the mean of `x` over its positions, with all gradients.

    Sums are in float32; the mean is rounded to the dtype of `x`, as torch's is. Captures in a CUDA graph.

    Args:
        x: ``(N, C, H, W)``, channels_last, bfloat16 or float16.
        weight: ``(K, C)``, in the dtype of `x`.
        bias: ``(K,)``, likewise.

    Returns:
        ``(N, K)``, in the dtype of `x`.

    Raises:
        ValueError: `can_pool_linear` says no.
    """
    if not can_pool_linear(x, weight.shape, weight.dtype):
        raise ValueError("no kernel for this input and weight: see can_pool_linear")
    y: Tensor = PooledLinear.apply(x, weight.contiguous(), bias)
    return y


class PooledLinear(torch.autograd.Function):
    """The mean and the product with the gradients of input, weight and bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the output and keep the means."""
        y, means = forward(x, weight, bias)
        ctx.save_for_backward(means, weight)
        ctx.size, ctx.has_bias = x.shape[2:], bias is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the gradients of input, weight and bias."""
        means, weight = ctx.saved_tensors
        return backward(grad, means, weight, ctx.size, has_bias=ctx.has_bias)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the output, ``(N, K)``, and the means, ``(N, C)``, in the dtype of `x`."""
    from normbench.triton_code import pool_linear_kernels

    samples, channels, height, width = x.shape
    y, means = x.new_empty((samples, len(weight))), x.new_empty((samples, channels))
    block_p, block_k, block_c = (power_of_two(size) for size in (height * width, len(weight), channels))
    launch(
        pool_linear_kernels.forward, (samples,),
        x, weight, bias, means, y,
        POSITIONS=height * width, CHANNELS=channels, CLASSES=len(weight),
        BLOCK_P=block_p, BLOCK_C=block_c, BLOCK_K=block_k,
        num_warps=tiling.num_warps(max(block_p, block_k) * block_c),
    )  # fmt: skip
    return y, means


def backward(
    grad: Tensor, means: Tensor, weight: Tensor, size: torch.Size, *, has_bias: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of input, channels_last, weight and bias; the same for the same input, bit for bit."""
    from normbench.triton_code import pool_linear_kernels

    samples, channels = means.shape
    height, width = size
    grad = grad.to(weight.dtype).contiguous()
    dx = means.new_empty((samples, height, width, channels))
    dweight = torch.empty_like(weight)
    dbias = weight.new_empty(len(weight)) if has_bias else None
    weight_blocks = ceil_div(channels, tiling.HEAD_CHANNELS) * ceil_div(len(weight), tiling.HEAD_CLASSES)
    launch(
        pool_linear_kernels.backward, (weight_blocks + samples,),
        grad, means, weight, dx, dweight, dbias, samples,
        POSITIONS=height * width, CHANNELS=channels, CLASSES=len(weight), BLOCK_C=power_of_two(channels),
        BLOCK_N=tiling.HEAD_SAMPLES, BLOCK_K=tiling.HEAD_CLASSES, WEIGHT_C=tiling.HEAD_CHANNELS,
        STAGES=tiling.HEAD_STAGES, num_warps=tiling.HEAD_WARPS,
    )  # fmt: skip
    return dx.permute(0, 3, 1, 2), dweight, dbias
