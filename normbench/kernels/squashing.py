"""Squashing functions in place of norms as one differentiable operation: what it allocates, keeps and launches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normbench.kernels.launch import launch
from normbench.kernels.support import is_channels_last, unsupported_input_reason
from normbench.kernels.tiling import ceil_div, num_warps, power_of_two, stages, tile_sums

_TILE = 2048
"""Elements of a tile, which four warps work on: 16 for each thread, as the backward pass has four sums for each."""
_WARPS = 4
_CHANNELS = 128
"""Channels of a tile at most where they are adjacent in memory; _STRIDED_CHANNELS elsewhere, for rows of positions."""
_STRIDED_CHANNELS = 16
_PROGRAMS = 528
"""Programs of the backward pass at most: four on each of 132 multiprocessors; each leaves shares to be summed."""


@dataclass(frozen=True, kw_only=True)
class SquashSpec:
    """``y = function(alpha * x + s) * weight + bias``, and ``max(y, 0)`` where the activation is ``relu``.

    Dynamic Tanh (arXiv 2503.10622) and Dynamic erf (2512.10938): weight and bias are per channel, alpha and s numbers.
    """

    function: Literal["tanh", "erf"]
    activation: Literal["none", "relu"] = "relu"


class _Tiling(NamedTuple):
    block_c: int
    block_r: int
    blocks: int
    """Programs side by side over the channels."""
    tiles: int
    programs: int
    """Programs of the backward pass for each block of channels."""


def squash(x: Tensor, spec: SquashSpec, weight: Tensor, bias: Tensor, alpha: Tensor, s: Tensor | None = None) -> Tensor:
    """Squash, scale, shift and activate `x`, ``(N, C, H, W)`` -> the same shape, dtype and memory format.

    Has gradients, keeps nothing but its arguments for the backward pass, and captures in a CUDA graph.

    Args:
        x: float32, bfloat16 or float16; contiguous or channels_last.
        spec: what to compute.
        weight: ``(C,)``, float32.
        bias: ``(C,)``, float32.
        alpha: ``(1,)``, float32.
        s: ``(1,)``, float32; 0 where it is absent.

    Raises:
        ValueError: no kernel takes such an `x`; the message says why.
    """
    reason = unsupported_input_reason(x)
    if reason is not None:
        raise ValueError(reason)
    y: Tensor = _Squash.apply(x, weight, bias, alpha, s, spec)
    return y


def unsupported_squash_reason(x: Tensor, spec: SquashSpec) -> str | None:
    """Return None where `squash` can run on `x`, ``(N, C, H, W)``, and otherwise why not, in one line."""
    return unsupported_input_reason(x)


class _Squash(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, alpha: Tensor, s: Tensor | None, spec: SquashSpec
    ) -> Tensor:
        ctx.spec = spec
        ctx.save_for_backward(x, weight, bias, alpha, s)
        return forward(x, spec, weight, bias, alpha, s)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        return (*backward(grad, x, ctx.spec, *parameters), None)


def forward(x: Tensor, spec: SquashSpec, weight: Tensor, bias: Tensor, alpha: Tensor, s: Tensor | None) -> Tensor:
    """Return the output."""
    from normbench.triton_code import squashing_kernels

    tiling = _tile(x)
    y = torch.empty_like(x)
    launch(
        squashing_kernels.squash_forward, (tiling.tiles, tiling.blocks),
        x, y, weight, bias, alpha, s, *_shape(x), **_code(x, spec, tiling),
    )  # fmt: skip
    return y


def backward(
    grad: Tensor, x: Tensor, spec: SquashSpec, weight: Tensor, bias: Tensor, alpha: Tensor, s: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Return the gradients of x, weight, bias, alpha and s."""
    from normbench.triton_code import squashing_kernels

    channels = x.shape[1]
    tiling = _tile(x)
    memory_format = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    dy = grad.to(x.dtype).contiguous(memory_format=memory_format)
    dx = torch.empty_like(x)
    shares = x.new_empty((tiling.programs, 2, channels), dtype=torch.float32)
    scalar_shares = x.new_empty((tiling.programs * tiling.blocks, 2), dtype=torch.float32)
    launch(
        squashing_kernels.squash_backward, (tiling.programs, tiling.blocks),
        x, dy, dx, weight, bias, alpha, s, shares, scalar_shares, *_shape(x),
        STAGES=stages(x.element_size()), **_code(x, spec, tiling),
    )  # fmt: skip
    sums = x.new_empty((2, channels), dtype=torch.float32)
    dalpha, ds = torch.empty_like(alpha), None if s is None else torch.empty_like(s)
    sum_tiling = tile_sums(len(scalar_shares), 2 * channels)
    launch(
        squashing_kernels.add_squash_shares, (sum_tiling.programs + 1,),
        shares, scalar_shares, sums, dalpha, ds, tiling.programs, 2 * channels, len(scalar_shares), sum_tiling.programs,
        BLOCK_P=sum_tiling.block_p, BLOCK_C=sum_tiling.block_c, num_warps=sum_tiling.num_warps,
    )  # fmt: skip
    return dx, sums[1], sums[0], dalpha, ds


def launch_all(
    x: Tensor, spec: SquashSpec, weight: Tensor, bias: Tensor, alpha: Tensor, s: Tensor | None = None
) -> None:
    """Launch every kernel that `squash` and its gradient launch on such tensors; for use in a `Compilation`."""
    backward(forward(x, spec, weight, bias, alpha, s), x, spec, weight, bias, alpha, s)


def _tile(x: Tensor) -> _Tiling:
    """Choose tiles for `x`."""
    n, channels, h, w = x.shape
    block_c = min(power_of_two(channels), _CHANNELS if is_channels_last(x) else _STRIDED_CHANNELS)
    block_r = min(_TILE // block_c, power_of_two(n * h * w))
    blocks, tiles = ceil_div(channels, block_c), ceil_div(n * h * w, block_r)
    return _Tiling(block_c, block_r, blocks, tiles, min(tiles, max(1, _PROGRAMS // blocks)))


def _shape(x: Tensor) -> tuple[int, int, int]:
    """Return the positions of all samples and of one, and the channels."""
    n, channels, h, w = x.shape
    return n * h * w, h * w, channels


def _code(x: Tensor, spec: SquashSpec, tiling: _Tiling) -> dict[str, Any]:
    """Return the compile-time arguments that both passes take."""
    elements = tiling.block_c * tiling.block_r
    return {
        "CHANNELS_LAST": is_channels_last(x),
        "FUNCTION": spec.function,
        "ACTIVATION": spec.activation,
        "BLOCK_R": tiling.block_r,
        "BLOCK_C": tiling.block_c,
        "num_warps": _WARPS if elements == _TILE else num_warps(elements),
    }
