"""Layer normalization over (C, H, W) with a scale and a shift for each element, and the activation after it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normbench.kernels.launch import launch
from normbench.kernels.norm_activation import like, summed
from normbench.kernels.spec import PixelSpec
from normbench.kernels.support import is_channels_last, unsupported_input_reason
from normbench.kernels.tiling import PixelTiling, power_of_two, stages, tile_pixels

MAX_TILES = 4096
"""Tiles of the largest sample: each program of the backward pass adds up the sums of all of them."""


def pixel_norm_act(x: Tensor, spec: PixelSpec, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Normalize and activate `x`, ``(N, C, H, W)`` -> the same shape, dtype and memory format, with gradients.

    Keeps `x` and two numbers of each sample for the backward pass, and nothing else. Captures in a CUDA graph.

    Args:
        x: float32, bfloat16 or float16; contiguous or channels_last.
        spec: what to compute.
        weight: scale, ``(C, H, W)``, float32; both or neither of the two.
        bias: shift, ``(C, H, W)``, float32.

    Raises:
        ValueError: `unsupported_pixel_reason` has a reason, or weight and bias do not fit.
    """
    reason = unsupported_pixel_reason(x, spec)
    if reason is not None:
        raise ValueError(reason)
    for parameter in (weight, bias):
        if (parameter is None) is not (weight is None) or (parameter is not None and parameter.shape != x.shape[1:]):
            raise ValueError(f"weight and bias must both be (C, H, W) = {tuple(x.shape[1:])}, or both be absent")
    y: Tensor = PixelNormAct.apply(x, weight, bias, spec)
    return y


def unsupported_pixel_reason(x: Tensor, spec: PixelSpec) -> str | None:
    """Return None where `pixel_norm_act` can run on `x`, ``(N, C, H, W)``, and otherwise why not, in one line."""
    reason = unsupported_input_reason(x)
    if reason is not None:
        return reason
    if tuple(x.shape[1:]) != spec.shape:
        return f"the layer was built for (C, H, W) = {spec.shape}, not {tuple(x.shape[1:])}"
    if x[0].numel() == 1:
        return "statistics of a single value"
    return "a sample has too many elements" if _tiling(x).tiles > MAX_TILES else None


class PixelNormAct(torch.autograd.Function):
    """The operation of `pixel_norm_act`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, spec: PixelSpec) -> Tensor:
        """Return the output and keep `x` and the statistics."""
        y, kept = pixel_forward(x, spec, weight, bias)
        ctx.spec = spec
        ctx.save_for_backward(x, kept, weight, bias)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias."""
        x, kept, weight, bias = ctx.saved_tensors
        return (*pixel_backward(grad, x, kept, weight, bias, ctx.spec), None)


def pixel_forward(x: Tensor, spec: PixelSpec, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the output, and mean and 1 / deviation of each sample, ``(N, 2)``."""
    from normbench.triton_code import pixel_affine_kernels

    tiles = _tiling(x)
    samples, channels, rows = len(x), x.shape[1], x.shape[2] * x.shape[3]
    y = torch.empty_like(x)
    moments = x.new_empty((samples, tiles.parts, 2), dtype=torch.float32)
    kept = x.new_empty((samples, 2), dtype=torch.float32)
    launch(
        pixel_affine_kernels.split_moments, (samples * tiles.parts,),
        x, moments, channels * rows, tiles.parts, tiles.chunk // tiles.chunk_block,
        BLOCK=tiles.chunk_block, STAGES=stages(x.element_size()), num_warps=tiles.chunk_warps,
    )  # fmt: skip
    launch(
        pixel_affine_kernels.pixel_forward, (tiles.programs,),
        x, y, moments, kept, weight, bias, spec.eps, samples, rows, channels, tiles.parts, tiles.chunk,
        tiles.tiles, tiles.blocks, tiles.samples_per, BLOCK_P=power_of_two(tiles.parts), **_code(x, spec, tiles),
    )  # fmt: skip
    return y, kept


def pixel_backward(
    grad: Tensor, x: Tensor, kept: Tensor, weight: Tensor | None, bias: Tensor | None, spec: PixelSpec
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the gradients of x, weight and bias."""
    from normbench.triton_code import pixel_affine_kernels

    tiles = _tiling(x)
    samples, channels, rows = len(x), x.shape[1], x.shape[2] * x.shape[3]
    dy, dx = like(grad, x), torch.empty_like(x)
    sums = x.new_empty((samples, tiles.tiles, 2), dtype=torch.float32)
    ranges = tiles.programs // tiles.tiles
    shares = None if weight is None else x.new_empty((ranges, 2, channels * rows), dtype=torch.float32)
    shape = (samples, rows, channels, tiles.tiles, tiles.blocks, tiles.samples_per)
    launch(
        pixel_affine_kernels.pixel_gradients, (tiles.programs,),
        x, dy, kept, sums, shares, weight, bias, *shape, **_code(x, spec, tiles),
    )  # fmt: skip
    launch(
        pixel_affine_kernels.pixel_backward, (tiles.programs,),
        x, dy, dx, kept, sums, weight, bias, *shape, BLOCK_T=power_of_two(tiles.tiles), **_code(x, spec, tiles),
    )  # fmt: skip
    if shares is None:
        return dx, None, None
    by_weight, by_bias = summed(shares).view(2, *x.shape[1:])
    return dx, by_weight, by_bias


def launch_all(x: Tensor, spec: PixelSpec, weight: Tensor | None, bias: Tensor | None) -> None:
    """Launch every kernel that `pixel_norm_act` and its gradient launch; for use in a `Compilation`."""
    y, kept = pixel_forward(x, spec, weight, bias)
    pixel_backward(y, x, kept, weight, bias, spec)


def _tiling(x: Tensor) -> PixelTiling:
    samples, channels, height, width = x.shape
    return tile_pixels(samples, height * width, channels)


def _code(x: Tensor, spec: PixelSpec, tiles: PixelTiling) -> dict[str, Any]:
    """Return the compile-time arguments that the kernels of tiles share."""
    return {
        "RELU": spec.activation == "relu",
        "CHANNELS_LAST": is_channels_last(x),
        "BLOCK_R": tiles.block_r,
        "BLOCK_C": tiles.block_c,
        "STAGES": stages(x.element_size()),
        "num_warps": tiles.num_warps,
    }
