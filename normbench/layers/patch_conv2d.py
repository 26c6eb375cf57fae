"""A 3x3 convolution as one matrix product over all images, for CPUs and outputs a few positions wide.

There oneDNN's own convolution reaches about 60 % of the rate of a matrix product (measured: 256 to 512 channels,
8x8 to 4x4, AVX-512).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_KERNEL = 3
MAX_WIDTH = 4
"""The widest output; from 8 on, oneDNN's own convolution is faster."""
MIN_OUT_CHANNELS = 512
"""The fewest output channels: 256 take as long either way, and for fewer, gathering the patches costs too much."""


def can_convolve_patches(input: Tensor, weight: Tensor, stride: int) -> bool:
    """Return whether `convolve_patches` is to be preferred: float32, channels_last, on a CPU, many channels, narrow.

    Args:
        input: ``(N, C, H, W)``.
        weight: ``(C_out, C, 3, 3)``.
        stride: of the convolution, which pads by 1.
    """
    if input.device.type != "cpu" or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return False
    has_work = input.numel() > 0 and weight.shape[0] >= MIN_OUT_CHANNELS
    is_float32 = input.dtype == weight.dtype == torch.float32
    is_narrow = input.dim() == 4 and (input.shape[3] - 1) // stride + 1 <= MAX_WIDTH
    return is_float32 and is_narrow and has_work and input.is_contiguous(memory_format=torch.channels_last)


def convolve_patches(input: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Return the 3x3 convolution of `input`, padded by 1, without bias; ``(N, C_out, H', W')``, channels_last.

    Takes what `can_convolve_patches` takes. Can be differentiated once.
    """
    y: Tensor = _PatchConvolution.apply(input, weight, stride)
    return y


class _PatchConvolution(torch.autograd.Function):
    """The product of patches ``(N*H'*W', 9*C)``, one row for each output position, and weights ``(9*C, C_out)``."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, stride: int) -> Tensor:
        padded = functional.pad(input.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        windows = padded.unfold(1, _KERNEL, stride).unfold(2, _KERNEL, stride)  # (N, H', W', C, 3, 3), a view
        n, h, w, c = windows.shape[:4]
        patches = windows.permute(0, 1, 2, 4, 5, 3).reshape(n * h * w, -1)
        kernels = weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)  # a view if the weight is channels_last
        ctx.save_for_backward(patches, kernels)
        ctx.padded_shape, ctx.windows_shape, ctx.stride = padded.shape, (n, h, w, _KERNEL, _KERNEL, c), stride
        return (patches @ kernels.T).view(n, h, w, -1).permute(0, 3, 1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        patches, kernels = ctx.saved_tensors
        n, h, w, _, _, c = ctx.windows_shape
        rows = grad.permute(0, 2, 3, 1).reshape(n * h * w, -1)
        grad_input = grad_weight = None
        if ctx.needs_input_grad[0]:
            windows = (rows @ kernels).view(ctx.windows_shape)
            padded = rows.new_zeros(ctx.padded_shape)
            s = ctx.stride
            for i in range(_KERNEL):
                for j in range(_KERNEL):
                    padded[:, i : i + s * h : s, j : j + s * w : s] += windows[:, :, :, i, j]
            grad_input = padded[:, 1:-1, 1:-1].contiguous().permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            grad_weight = (rows.T @ patches).view(-1, _KERNEL, _KERNEL, c).permute(0, 3, 1, 2)
        return grad_input, grad_weight, None
