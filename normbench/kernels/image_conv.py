"""The 3x3 convolution of a batch of images as a differentiable operation: what it allocates, keeps and launches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normbench.kernels import tiling
from normbench.kernels.conv import Relu, bias_gradient
from normbench.kernels.launch import launch
from normbench.kernels.norm_activation import summed
from normbench.kernels.support import DTYPES, HALF_DTYPES, MAX_ELEMENTS, is_channels_last, unsupported_device_reason
from normbench.kernels.tiling import ceil_div, power_of_two

MAX_IMAGE_CHANNELS = 4
"""Channels of an image; a convolution of more is better computed otherwise than by patches."""


def can_convolve_images(images: Tensor, weight_shape: torch.Size, dtype: torch.dtype) -> bool:
    """Return whether `convolve_images` can run on `images`, with a weight of this shape in `dtype`."""
    if images.ndim != 4 or weight_shape[1:] != (images.shape[1], 3, 3) or images.shape[1] > MAX_IMAGE_CHANNELS:
        return False
    if images.dtype not in DTYPES or dtype not in HALF_DTYPES:
        return False
    if images.requires_grad and torch.is_grad_enabled():
        return False
    num_outputs = images[:, 0].numel() * weight_shape[0]
    fits = images.numel() > 0 and num_outputs <= MAX_ELEMENTS and is_channels_last(images)
    return fits and unsupported_device_reason(images.device) is None


def convolve_images(images: Tensor, weight: Tensor, *, bias: Tensor | None = None, relu: Relu | None = None) -> Tensor:
    """Convolve `images` 3x3 at stride 1 with zeros around them, without a gradient of the images.

    Images are rounded to the weight's dtype, products summed in float32. Captures in a CUDA graph.

    Args:
        images: ``(N, C, H, W)``, C at most 4, channels_last, float32, bfloat16 or float16.
        weight: ``(C_out, C, 3, 3)``, of any strides, bfloat16 or float16.
        bias: ``(C_out,)``, of any floating-point dtype, added in float32 before the output is rounded.
        relu: the ReLU to apply to the output, if any.

    Returns:
        ``(N, C_out, H, W)``, channels_last, in the dtype of `weight`.

    Raises:
        ValueError: `can_convolve_images` says no.
    """
    if not can_convolve_images(images, weight.shape, weight.dtype):
        raise ValueError("no kernel for these images and weights: see can_convolve_images")
    y: Tensor = ImageConv.apply(images, weight, bias, relu)
    return y


class ImageConv(torch.autograd.Function):
    """The convolution with the gradients of weight and bias."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, relu: Relu | None) -> Tensor:
        """Return the output and keep the images, and the output of a ReLU."""
        y = convolve(images, weight, bias=bias, relu=relu is not None)
        ctx.save_for_backward(images, weight, None if relu is None else y)
        ctx.relu = relu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of weight and bias."""
        images, weight, y = ctx.saved_tensors
        if ctx.relu is not None:
            grad = ctx.relu.backward(grad, y)
        needs_bias = ctx.needs_input_grad[2]
        return None, weight_gradient(grad, images, weight), bias_gradient(grad) if needs_bias else None, None


def convolve(images: Tensor, weight: Tensor, *, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """Return the output, ``(N, C_out, H, W)``, channels_last, in the dtype of `weight`, after bias and ReLU if any."""
    from normbench.triton_code import image_conv_kernels

    num_images, _, height, width = images.shape
    channels_out, rows = len(weight), num_images * height * width
    y = torch.empty(
        (num_images, channels_out, height, width), dtype=weight.dtype, device=images.device,
        memory_format=torch.channels_last,
    )  # fmt: skip
    tile = _tile(images, weight)
    programs = min(ceil_div(rows, tiling.IMAGE_ROWS), tiling.IMAGE_PROGRAMS)
    launch(
        image_conv_kernels.forward, (programs, ceil_div(channels_out, tile["BLOCK_C"])),
        images, weight, bias, y, rows, *weight.stride(), RELU=relu, **tile,
    )  # fmt: skip
    return y  # no view: of a function's own, autograd takes no view that a ReLU overwrites


def weight_gradient(grad: Tensor, images: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of `weight`, in its dtype and channels_last; the same for the same input, bit for bit."""
    from normbench.triton_code import image_conv_kernels

    num_images, channels, height, width = images.shape
    channels_out, rows = len(weight), num_images * height * width
    grad = grad.to(weight.dtype).contiguous(memory_format=torch.channels_last)
    num_tiles = ceil_div(rows, tiling.IMAGE_ROWS)
    tiles = max(ceil_div(num_tiles, tiling.IMAGE_PROGRAMS), tiling.IMAGE_SHARE_TILES)
    programs = ceil_div(num_tiles, tiles)
    shares = images.new_empty((programs, channels_out, 9 * channels), dtype=torch.float32)
    tile = _tile(images, weight)
    launch(
        image_conv_kernels.weight_gradient, (programs, ceil_div(channels_out, tile["BLOCK_C"])),
        images, grad, shares, rows, tiles, **tile,
    )  # fmt: skip
    return summed(shares, weight.dtype).view(channels_out, 3, 3, channels).permute(0, 3, 1, 2)


def _tile(images: Tensor, weight: Tensor) -> dict[str, int]:
    """Return the compile-time arguments of both kernels. No side of a tensor core's product is shorter than 16."""
    _, channels, height, width = images.shape
    return {
        "HEIGHT": height,
        "WIDTH": width,
        "CHANNELS": channels,
        "CHANNELS_OUT": len(weight),
        "BLOCK_R": tiling.IMAGE_ROWS,
        "BLOCK_C": min(max(power_of_two(len(weight)), 16), tiling.IMAGE_CHANNELS),
        "BLOCK_K": max(power_of_two(9 * channels), 16),
        "STAGES": tiling.IMAGE_STAGES,
        "num_warps": tiling.IMAGE_WARPS,
    }
