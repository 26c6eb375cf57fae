"""A small convolution of images and the GELU after it, of which only the bias is trained, as one operation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normbench.kernels.launch import launch
from normbench.kernels.norm_activation import summed
from normbench.kernels.support import HALF_DTYPES, MAX_ELEMENTS, is_channels_last, unsupported_device_reason
from normbench.kernels.tiling import ceil_div, power_of_two

_BLOCK = 128
_TILES = 8
"""Blocks whose gradients one program sums up."""
MAX_FILTERS = 64
MAX_TERMS = 48
"""Products that make up an output; the loop over them is unrolled."""


def can_convolve_patches_gelu(images: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
    """Return whether `convolve_patches_gelu` can run on `images` with `weight`, for an output in `dtype`."""
    if dtype not in HALF_DTYPES or images.ndim != 4 or images.dtype != torch.float32 or not images.numel():
        return False
    filters, channels, height, width = weight.shape
    if channels != images.shape[1] or height != width or height > min(images.shape[2:]):
        return False
    fits = filters <= MAX_FILTERS and weight[0].numel() <= MAX_TERMS and images.numel() * filters <= MAX_ELEMENTS
    is_input = not images.requires_grad and not weight.requires_grad and is_channels_last(images)
    return fits and is_input and unsupported_device_reason(images.device) is None


def convolve_patches_gelu(images: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """Convolve `images` without padding, add `bias`, and apply the GELU; only `bias` has a gradient.

    All is computed in float32 and rounded once, to `dtype`. Keeps its inputs for the backward pass, and nothing else.
    Captures in a CUDA graph; the same input gives the same bits.

    Args:
        images: ``(N, C, H, W)``, channels_last, float32.
        weight: ``(F, C, s, s)``, float32.
        bias: ``(F,)``, float32.
        dtype: bfloat16 or float16.

    Returns:
        ``(N, F, H - s + 1, W - s + 1)``, channels_last.

    Raises:
        ValueError: `can_convolve_patches_gelu` says no.
    """
    if not can_convolve_patches_gelu(images, weight, dtype):
        raise ValueError("no kernel for these images and this weight: see can_convolve_patches_gelu")
    y: Tensor = PatchGelu.apply(images, weight.permute(0, 2, 3, 1).contiguous(), bias, dtype)
    return y


class PatchGelu(torch.autograd.Function):
    """The operation with the gradient of the bias; the weight is ``(F, s, s, C)`` here."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the output and keep the inputs."""
        ctx.save_for_backward(images, weight, bias)
        return forward(images, weight, bias, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor, None]:
        """Return the gradient of the bias."""
        return None, None, backward(grad, *ctx.saved_tensors), None


def forward(images: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the output, ``(N, F, H - s + 1, W - s + 1)``, channels_last; `weight` is ``(F, s, s, C)``."""
    from normbench.triton_code import patch_gelu_kernels

    samples, _, height, width = images.shape
    filters, size, _, _ = weight.shape
    shape = (samples, filters, height - size + 1, width - size + 1)
    y = torch.empty(shape, dtype=dtype, device=images.device, memory_format=torch.channels_last)
    count = y.numel() // filters
    launch(
        patch_gelu_kernels.forward, (ceil_div(count, _BLOCK),), images, weight, bias, y, count, **_tile(images, weight)
    )
    return y


def backward(grad: Tensor, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the gradient of the bias, ``(F,)``; `weight` is ``(F, s, s, C)``."""
    from normbench.triton_code import patch_gelu_kernels

    grad = grad.contiguous(memory_format=torch.channels_last)
    filters = len(weight)
    count = grad.numel() // filters
    programs = ceil_div(count, _BLOCK * _TILES)
    shares = torch.empty((programs, 1, filters), dtype=torch.float32, device=grad.device)
    launch(
        patch_gelu_kernels.backward, (programs,),
        images, weight, bias, grad, shares, count, TILES=_TILES, **_tile(images, weight),
    )  # fmt: skip
    return summed(shares)[0]


def _tile(images: Tensor, weight: Tensor) -> dict[str, int]:
    _, channels, height, width = images.shape
    filters, size, _, _ = weight.shape
    return {
        "HEIGHT": height, "WIDTH": width, "CHANNELS": channels, "SIZE": size, "FILTERS": filters,
        "LANES": power_of_two(filters), "BLOCK": _BLOCK, "num_warps": 4,
    }  # fmt: skip
