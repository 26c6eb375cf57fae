"""Local response normalization with the activation after it as one operation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normbench.kernels.launch import launch
from normbench.kernels.norm_activation import MAX_CHANNELS, like
from normbench.kernels.spec import WindowSpec
from normbench.kernels.support import is_channels_last, unsupported_input_reason
from normbench.kernels.tiling import tile_positions

MAX_SIZE = 16
"""Channels of the widest window; each is a gather of its own in the code."""


def window_norm_act(x: Tensor, spec: WindowSpec) -> Tensor:
    """Normalize and activate `x`, ``(N, C, H, W)`` -> the same shape, dtype and memory format, with a gradient.

    Keeps `x` for the backward pass, and nothing else. Captures in a CUDA graph.

    Raises:
        ValueError: `unsupported_window_reason` has a reason.
    """
    reason = unsupported_window_reason(x, spec)
    if reason is not None:
        raise ValueError(reason)
    y: Tensor = WindowNormAct.apply(x, spec)
    return y


def unsupported_window_reason(x: Tensor, spec: WindowSpec) -> str | None:
    """Return None where `window_norm_act` can run on `x`, ``(N, C, H, W)``, and otherwise why not, in one line."""
    reason = unsupported_input_reason(x)
    if reason is not None:
        return reason
    if x.shape[1] > MAX_CHANNELS:
        return f"{x.shape[1]} channels exceed a tile's {MAX_CHANNELS}"
    return f"a window of {spec.size} channels exceeds {MAX_SIZE}" if spec.size > MAX_SIZE else None


class WindowNormAct(torch.autograd.Function):
    """The operation of `window_norm_act`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, spec: WindowSpec) -> Tensor:
        """Return the output and keep `x`."""
        ctx.spec = spec
        ctx.save_for_backward(x)
        return window_forward(x, spec)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of x."""
        (x,) = ctx.saved_tensors
        return window_backward(grad, x, ctx.spec), None


def window_forward(x: Tensor, spec: WindowSpec) -> Tensor:
    """Return the output."""
    from normbench.triton_code import window_kernels

    y = torch.empty_like(x)
    _launch(window_kernels.window_forward, spec, x, y)
    return y


def window_backward(grad: Tensor, x: Tensor, spec: WindowSpec) -> Tensor:
    """Return the gradient of x."""
    from normbench.triton_code import window_kernels

    dx = torch.empty_like(x)
    _launch(window_kernels.window_backward, spec, x, like(grad, x), dx)
    return dx


def launch_all(x: Tensor, spec: WindowSpec) -> None:
    """Launch every kernel that `window_norm_act` and its gradient launch; for use in a `Compilation`."""
    window_backward(window_forward(x, spec), x, spec)


def _launch(kernel: Any, spec: WindowSpec, x: Tensor, *others: Tensor) -> None:
    samples, channels, height, width = x.shape
    positions = samples * height * width
    tiling = tile_positions(positions, channels)
    launch(
        kernel, (tiling.tiles,),
        x, *others, spec.alpha, spec.beta, spec.k, positions, height * width, channels,
        SIZE=spec.size, RELU=spec.activation == "relu", CHANNELS_LAST=is_channels_last(x),
        BLOCK_R=tiling.block_r, BLOCK_C=tiling.block_c, num_warps=tiling.num_warps,
    )  # fmt: skip
