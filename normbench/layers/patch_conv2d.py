"""A 3x3 convolution as matrix products over all images, for CPUs and outputs a few positions wide.

There oneDNN's own convolution reaches about 60 % of the rate of a matrix product in float32 (measured: 256 to 512
channels, 8x8 to 4x4, AVX-512), and a sixth of it for the weight's gradient in bf16 (the same layer, AMX).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_KERNEL = 3
_TAPS = [(row, column) for row in range(_KERNEL) for column in range(_KERNEL)]


class Limits(NamedTuple):
    """The outputs whose convolution is faster as a matrix product than in oneDNN."""

    max_width: int
    """The widest output; gathering its patches costs too much for wider ones."""
    min_channels: int
    """The fewest output channels."""


LIMITS = MappingProxyType({torch.float32: Limits(4, 512), torch.bfloat16: Limits(8, 256)})
_MAX_WIDTH_OF_INPUT_GRADIENT = 4
"""The widest output whose input's gradient is a matrix product too; oneDNN's is faster from 8 on."""


def can_convolve_patches(input: Tensor, weight: Tensor, stride: int, dtype: torch.dtype | None) -> bool:
    """Return whether `convolve_patches` is to be preferred: channels_last, on a CPU, many channels, narrow.

    Args:
        input: ``(N, C, H, W)``.
        weight: ``(C_out, C, 3, 3)``.
        stride: of the convolution, which pads by 1.
        dtype: in which it computes; None where none of our own is to.
    """
    limits = None if dtype is None else LIMITS.get(dtype)
    if limits is None or input.device.type != "cpu" or input.dim() != 4 or input.numel() == 0:
        return False
    has_work = weight.shape[0] >= limits.min_channels and _output_size(input.shape[3], stride) <= limits.max_width
    return has_work and input.is_contiguous(memory_format=torch.channels_last)


def convolve_patches(input: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Return the 3x3 convolution of `input`, padded by 1, without bias; ``(N, C_out, H', W')``, channels_last.

    Takes what `can_convolve_patches` takes, both in its dtype. Products add up in float32 and are rounded once; in
    bf16, that is all that is rounded. Can be differentiated once.
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
        ctx.save_for_backward(patches, weight)
        ctx.input_shape, ctx.stride = (n, *input.shape[2:], c), stride
        size = (n, len(weight), h, w)
        y = torch.empty(size, dtype=patches.dtype, device=patches.device, memory_format=torch.channels_last)
        torch.mm(patches, kernels.T, out=y.permute(0, 2, 3, 1).view(n * h * w, -1))
        return y  # no view: of a function's own, autograd takes no view that a ReLU overwrites

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        patches, weight = ctx.saved_tensors
        grad = grad.permute(0, 2, 3, 1)
        grad_input = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_input = _input_gradient(grad, weight, ctx.input_shape, ctx.stride).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            rows = grad.reshape(len(patches), -1).T
            rows = rows if grad.dtype == torch.float32 else rows.contiguous()  # as AMX takes them; float32 keeps bits
            grad_weight = (rows @ patches).view(-1, _KERNEL, _KERNEL, weight.shape[1]).permute(0, 3, 1, 2)
        return grad_input, grad_weight, None


def _input_gradient(grad: Tensor, weight: Tensor, shape: tuple[int, ...], stride: int) -> Tensor:
    """Return the gradient of an input of `shape` ``(N, H, W, C)``, from the output's, ``(N, H', W', C_out)``."""
    if grad.dtype == torch.float32:
        return _add_windows(grad, weight, shape, stride)
    if grad.shape[2] <= _MAX_WIDTH_OF_INPUT_GRADIENT:
        return _by_residues(grad, weight, shape, stride)
    return _by_onednn(grad, weight, shape, stride)


def _add_windows(grad: Tensor, weight: Tensor, shape: tuple[int, ...], stride: int) -> Tensor:
    """Compute every tap's part in one product and add them up: in 16 bits that would round each of nine sums."""
    n, h, w, _ = grad.shape
    kernels = weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)
    windows = (grad.reshape(n * h * w, -1) @ kernels).view(n, h, w, _KERNEL, _KERNEL, -1)
    padded = grad.new_zeros(n, shape[1] + 2, shape[2] + 2, shape[3])
    for i, j in _TAPS:
        padded[:, i : i + stride * h : stride, j : j + stride * w : stride] += windows[:, :, :, i, j]
    return padded[:, 1:-1, 1:-1].contiguous()


def _by_residues(grad: Tensor, weight: Tensor, shape: tuple[int, ...], stride: int) -> Tensor:
    """Compute the input's positions that see the same taps in one product: with stride 1 all, with 2 a quarter each."""
    n, height, width, c = shape
    h, w = -(-height // stride), -(-width // stride)
    padded = functional.pad(grad, (0, 0, 1, 1, 1, 1))
    result = grad.new_zeros(n, h, stride, w, stride, c)
    for row in range(stride):
        for column in range(stride):
            # Output o sees input stride * o + tap - 1: input stride * k + row is seen by k + (row + 1 - tap) / stride.
            seen = [(i, j) for i, j in _TAPS if (row + 1 - i) % stride == (column + 1 - j) % stride == 0]
            if not seen:
                continue  # a stride above 3 leaves some out
            parts = []
            for i, j in seen:
                top, left = 1 + (row + 1 - i) // stride, 1 + (column + 1 - j) // stride
                parts.append(padded[:, top : top + h, left : left + w])
            taps = torch.cat([weight[:, :, i, j] for i, j in seen])
            product = torch.cat(parts, dim=3).view(n * h * w, -1) @ taps
            result[:, :, row, :, column] = product.view(n, h, w, c)
    return result.view(n, h * stride, w * stride, c)[:, :height, :width].contiguous()


def _by_onednn(grad: Tensor, weight: Tensor, shape: tuple[int, ...], stride: int) -> Tensor:
    """Let oneDNN's convolution compute it, which needs the input's shape only."""
    n, height, width, c = shape
    like_input = grad.new_empty(1).expand(n, height, width, c)
    gradient: Tensor = torch.ops.aten.convolution_backward(
        grad.permute(0, 3, 1, 2), like_input.permute(0, 3, 1, 2), weight, None,
        [stride] * 2, [1, 1], [1, 1], False, [0, 0], 1, [True, False, False],
    )[0]  # fmt: skip
    return gradient.permute(0, 2, 3, 1)


def _output_size(size: int, stride: int) -> int:
    return (size - 1) // stride + 1
