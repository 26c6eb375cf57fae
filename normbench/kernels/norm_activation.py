"""Normalization and the activation after it as one differentiable operation: what it allocates, keeps and launches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normbench.kernels.launch import launch
from normbench.kernels.spec import MomentsSpec, NormActSpec
from normbench.kernels.support import is_channels_last, unsupported_input_reason
from normbench.kernels.tiling import GroupTiling, PositionTiling, stages, tile_groups, tile_positions, tile_sums

MAX_CHANNELS = 4096
"""Lanes of the widest tile: a group, or all channels of a position."""


class Parameters(NamedTuple):
    """Learned parameters, each ``(C,)`` or absent; also their gradients."""

    weight: Tensor | None
    bias: Tensor | None
    extra: Tensor | None


@dataclass(frozen=True)
class Running:
    """BatchNorm's running statistics, and how to use them."""

    mean: Tensor
    var: Tensor
    num_batches: Tensor | None
    momentum: float
    frozen: bool
    """Whether they normalize, unchanged, instead of being updated."""


def norm_act(
    x: Tensor,
    spec: NormActSpec,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    extra: Tensor | None = None,
    *,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    num_batches_tracked: Tensor | None = None,
    momentum: float = 0.1,
    use_running: bool = False,
) -> Tensor:
    """Normalize and activate `x`, ``(N, C, H, W)`` -> the same shape, dtype and memory format, with gradients.

    Keeps `x` and float32 statistics for the backward pass, and nothing else. Captures in a CUDA graph.

    Args:
        x: float32, bfloat16 or float16; contiguous or channels_last.
        spec: what to compute.
        weight: scale, ``(C,)``, float32.
        bias: shift, ``(C,)``, float32.
        extra: ``(C,)``, float32: the threshold tau of ``tlu``, or the slope v of ``swish`` (1 where it is absent).
        running_mean: ``(C,)``, updated in place from batch statistics.
        running_var: ``(C,)``, likewise, with the unbiased variance.
        num_batches_tracked: counts the updates; a scalar.
        momentum: weight of the new batch in the running statistics.
        use_running: normalize by the running statistics and leave them alone; no gradient then.

    Raises:
        ValueError: `unsupported_reason` has a reason, or an argument does not go with `spec`.
    """
    reason = unsupported_reason(x, spec)
    if reason is not None:
        raise ValueError(reason)
    running = None
    if running_mean is not None and running_var is not None:
        running = Running(running_mean, running_var, num_batches_tracked, momentum, use_running)
    elif use_running:
        raise ValueError("use_running needs running_mean and running_var")
    return _checked_norm_act(x, spec, Parameters(weight, bias, extra), running)


def unsupported_reason(x: Tensor, spec: NormActSpec) -> str | None:
    """Return None where `norm_act` can run on `x`, ``(N, C, H, W)``, and otherwise why not, in one line."""
    reason = unsupported_input_reason(x) or unsupported_groups_reason(x, spec)
    if reason is not None:
        return reason
    n, c, h, w = x.shape
    groups = spec.num_groups(c)
    if spec.scope == "position" and spec.activation not in ("none", "relu", "gelu"):
        return f"no fused kernel for statistics by position with {spec.activation}"
    values = {"sample": c // groups * h * w, "batch": n * h * w, "position": c}[spec.scope]
    if values == 1 and spec.centered:
        return "statistics of a single value"
    return None


def unsupported_groups_reason(x: Tensor, spec: NormActSpec | MomentsSpec) -> str | None:
    """Return None where the groups of `spec` fit the channels of `x` and a tile, and otherwise why not, in one line."""
    channels = x.shape[1]
    groups = spec.num_groups(channels)
    if channels % groups:
        return f"{groups} groups do not divide {channels} channels"
    if channels // groups > MAX_CHANNELS:
        return f"groups of {channels // groups} channels exceed a tile's {MAX_CHANNELS}"
    return None


def _checked_norm_act(x: Tensor, spec: NormActSpec, parameters: Parameters, running: Running | None) -> Tensor:
    if running is not None and spec.scope != "batch":
        raise ValueError(f"running statistics go with the scope 'batch', not {spec.scope!r}")
    if parameters.extra is not None and spec.activation not in ("tlu", "swish"):
        raise ValueError(f"activation {spec.activation!r} takes no extra parameter")
    y: Tensor
    if spec.scope == "position":
        y = PositionNormAct.apply(x, *parameters, spec)
    elif running is not None and running.frozen:
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *parameters)):
            raise ValueError("no gradient through running statistics; use torch.no_grad()")
        y, _, _ = group_forward(x, spec, parameters, running)
    else:
        y = GroupNormAct.apply(x, *parameters, spec, running)
    return y


class GroupNormAct(torch.autograd.Function):
    """The operation for statistics over rows: the scopes ``sample`` and ``batch``."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        extra: Tensor | None,
        spec: NormActSpec,
        running: Running | None,
    ) -> Tensor:
        """Return the output and keep `x` and the statistics."""
        y, mean, rstd = group_forward(x, spec, Parameters(weight, bias, extra), running)
        ctx.spec = spec
        ctx.save_for_backward(x, mean, rstd, weight, bias, extra)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and of the three parameters."""
        x, mean, rstd, *parameters = ctx.saved_tensors
        dx, gradients = group_backward(grad, x, mean, rstd, ctx.spec, Parameters(*parameters))
        return (dx, *gradients, None, None)


class PositionNormAct(torch.autograd.Function):
    """The operation for statistics over the channels of a position: the scope ``position``."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, extra: Tensor | None, spec: NormActSpec
    ) -> Tensor:
        """Return the output and keep `x`."""
        ctx.spec = spec
        ctx.save_for_backward(x, weight, bias)
        return position_forward(x, spec, Parameters(weight, bias, extra))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and of the parameters."""
        x, weight, bias = ctx.saved_tensors
        dx, gradients = position_backward(grad, x, ctx.spec, Parameters(weight, bias, None))
        return (dx, *gradients, None)


def group_forward(
    x: Tensor, spec: NormActSpec, parameters: Parameters, running: Running | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return the output and the statistics kept: mean (None where not centered) and 1 / sqrt(var + eps)."""
    from normbench.triton_code import group_kernels

    samples, rows, channels, groups, tiling = layout(x, spec, backward=False)
    across = spec.scope == "batch"
    kept = (1 if across else samples, groups)
    y = torch.empty_like(x)
    mean = x.new_empty(kept, dtype=torch.float32) if spec.centered else None
    rstd = x.new_empty(kept, dtype=torch.float32)
    frozen = running is not None and running.frozen
    updated: tuple[Tensor | None, Tensor | None, Tensor | None, float] = (None, None, None, 0.0)
    if running is not None and not frozen:
        updated = (running.mean, running.var, running.num_batches, running.momentum)
    shape = (rows, channels, groups, tiling.blocks)
    grid = (samples * tiling.chunks * tiling.blocks,)
    tile = group_tile(x, spec, tiling)
    code = {"ACTIVATION": spec.activation, "EXTRA": extra_default(spec)}
    if not tiling.split and not frozen:
        launch(
            group_kernels.whole_forward, grid,
            x, y, mean, rstd, *parameters, *updated, spec.eps, *shape, ONE_TILE=tiling.one_tile, **code, **tile,
        )  # fmt: skip
        return y, mean, rstd

    chunking = (tiling.chunks, tiling.chunk_tiles)
    if running is not None and frozen:
        part_mean, part_var = running.mean, running.var
        merged = (1, 1, rows)
    else:
        parts = (samples * tiling.chunks, groups)
        part_mean, part_var = (x.new_empty(parts, dtype=torch.float32) for _ in range(2))
        merged = (tiling.chunks * (samples if across else 1), tiling.chunks, tiling.chunk_tiles * tiling.block_r)
        launch(group_kernels.split_statistics, grid, x, part_mean, part_var, *shape, *chunking, **tile)
    launch(
        group_kernels.split_forward, grid,
        x, y, part_mean, part_var, mean, rstd, *parameters, *updated, spec.eps, *shape, *chunking, *merged,
        ACROSS=across, BLOCK_P=tiling.block_p, **code, **tile,
    )  # fmt: skip
    return y, mean, rstd


def group_backward(
    grad: Tensor, x: Tensor, mean: Tensor | None, rstd: Tensor, spec: NormActSpec, parameters: Parameters
) -> tuple[Tensor, Parameters]:
    """Return the gradients of x and of the parameters."""
    from normbench.triton_code import group_kernels

    terms = 2 if parameters.extra is None else 3
    samples, rows, channels, groups, tiling = layout(x, spec, backward=True, terms=terms)
    across = spec.scope == "batch"
    dy = like(grad, x)
    dx = torch.empty_like(x)
    learnable = any(parameter is not None for parameter in parameters)
    shape = (rows, channels, groups, tiling.blocks)
    grid = (samples * tiling.chunks * tiling.blocks,)
    tile = group_tile(x, spec, tiling)
    code = {"ACTIVATION": spec.activation, "EXTRA": extra_default(spec), "TERMS": terms}
    sums = None
    if not tiling.split:
        shares = x.new_empty((samples, terms, channels), dtype=torch.float32) if learnable else None
        launch(
            group_kernels.whole_backward, grid,
            x, dy, dx, mean, rstd, *parameters, shares, *shape, ONE_TILE=tiling.one_tile, **code, **tile,
        )  # fmt: skip
        sums = None if shares is None else summed(shares)
    else:
        chunking = (tiling.chunks, tiling.chunk_tiles)
        shares = x.new_empty((samples * tiling.chunks, terms, channels), dtype=torch.float32)
        launch(
            group_kernels.split_gradients, grid,
            x, dy, shares, mean, rstd, *parameters, *shape, *chunking, ACROSS=across, **code, **tile,
        )  # fmt: skip
        # Where samples share their statistics, the kernel merges the shares of all anyway.
        sums = x.new_empty((terms, channels), dtype=torch.float32) if across and learnable else None
        launch(
            group_kernels.split_backward, grid,
            x, dy, dx, shares, mean, rstd, *parameters, sums, *shape, *chunking,
            tiling.chunks * (samples if across else 1), ACROSS=across, BLOCK_P=tiling.block_p, **code, **tile,
        )  # fmt: skip
        if learnable and not across:
            sums = summed(shares)
    return dx, gradients_from(sums, parameters)


def position_forward(x: Tensor, spec: NormActSpec, parameters: Parameters) -> Tensor:
    """Return the output for statistics by position."""
    from normbench.triton_code import position_kernels

    n, channels, h, w = x.shape
    tiling = tile_positions(n * h * w, channels)
    y = torch.empty_like(x)
    launch(
        position_kernels.position_forward, (tiling.tiles,),
        x, y, parameters.weight, parameters.bias, spec.eps, n * h * w, h * w, channels,
        **position_tile(x, spec, tiling),
    )  # fmt: skip
    return y


def position_backward(grad: Tensor, x: Tensor, spec: NormActSpec, parameters: Parameters) -> tuple[Tensor, Parameters]:
    """Return the gradients of x and of the parameters for statistics by position."""
    from normbench.triton_code import position_kernels

    n, channels, h, w = x.shape
    tiling = tile_positions(n * h * w, channels)
    dx = torch.empty_like(x)
    weight, bias, _ = parameters
    shares = None
    if weight is not None or bias is not None:
        shares = x.new_empty((tiling.programs, 2, channels), dtype=torch.float32)
    launch(
        position_kernels.position_backward, (tiling.programs,),
        x, like(grad, x), dx, weight, bias, shares, spec.eps, n * h * w, h * w, channels,
        STAGES=stages(x.element_size()), **position_tile(x, spec, tiling),
    )  # fmt: skip
    return dx, gradients_from(None if shares is None else summed(shares), parameters)


def summed(shares: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return ``(parts, terms, C)`` summed over the parts and rounded to `dtype`, in one small launch."""
    from normbench.triton_code import group_kernels

    parts, terms, channels = shares.shape
    if parts == 1:
        return shares[0].to(dtype)
    sums = shares.new_empty((terms, channels), dtype=dtype)
    tiling = tile_sums(parts, terms * channels)
    launch(
        group_kernels.add_shares, (tiling.programs,),
        shares, sums, parts, terms * channels,
        BLOCK_P=tiling.block_p, BLOCK_C=tiling.block_c, num_warps=tiling.num_warps,
    )  # fmt: skip
    return sums


def launch_all(x: Tensor, spec: NormActSpec, **arguments: Any) -> None:
    """Launch every kernel that `norm_act` and its gradient launch with such arguments; for use in a `Compilation`."""
    parameters = Parameters(*(arguments.get(name) for name in Parameters._fields))
    if spec.scope == "position":
        position_backward(position_forward(x, spec, parameters), x, spec, parameters)
        return
    states: list[Running | None] = [None]
    if arguments.get("running_mean") is not None:
        mean, var = (x.new_empty(x.shape[1], dtype=torch.float32) for _ in range(2))
        states = [Running(mean, var, x.new_empty((), dtype=torch.int64), 0.1, frozen) for frozen in (True, False)]
    for state in states:
        y, mean_kept, rstd = group_forward(x, spec, parameters, state)
    group_backward(y, x, mean_kept, rstd, spec, parameters)


def layout(x: Tensor, spec: NormActSpec, *, backward: bool, terms: int = 2) -> tuple[int, int, int, int, GroupTiling]:
    """Return samples, rows, channels, groups and the tiling. In channels_last a batch is one sample of N*H*W rows."""
    n, channels, h, w = x.shape
    across = spec.scope == "batch"
    samples, rows = (1, n * h * w) if across and is_channels_last(x) else (n, h * w)
    groups = spec.num_groups(channels)
    tiling = tile_groups(
        samples, rows, channels, groups,
        across_samples=across, backward=backward, element_bytes=x.element_size(), terms=terms,
    )  # fmt: skip
    return samples, rows, channels, groups, tiling


def group_tile(x: Tensor, spec: NormActSpec, tiling: GroupTiling) -> dict[str, Any]:
    """Return the compile-time arguments that all group kernels take."""
    return {
        "CHANNELS_LAST": is_channels_last(x),
        "CENTERED": spec.centered,
        "GROUP_SIZE": tiling.group_size,
        "GROUP_PAD": tiling.group_pad,
        "BLOCK_R": tiling.block_r,
        "BLOCK_C": tiling.block_c,
        "STAGES": tiling.stages,
        "num_warps": tiling.num_warps,
    }


def position_tile(x: Tensor, spec: NormActSpec, tiling: PositionTiling) -> dict[str, Any]:
    """Return the compile-time arguments of the position kernels."""
    return {
        "CHANNELS_LAST": is_channels_last(x),
        "CENTERED": spec.centered,
        "ACTIVATION": spec.activation,
        "BLOCK_R": tiling.block_r,
        "BLOCK_C": tiling.block_c,
        "num_warps": tiling.num_warps,
    }


def gradients_from(sums: Tensor | None, parameters: Parameters) -> Parameters:
    """Pick from ``(terms, C)``, in the order bias, weight, extra, the gradients of the parameters that there are."""
    if sums is None:
        return Parameters(None, None, None)
    weight, bias, extra = parameters
    return Parameters(
        None if weight is None else sums[1],
        None if bias is None else sums[0],
        None if extra is None else sums[2],
    )


def extra_default(spec: NormActSpec) -> float:
    """Return what an absent `extra` stands for."""
    return 1.0 if spec.activation == "swish" else 0.0


def like(grad: Tensor, x: Tensor) -> Tensor:
    """Return `grad` in the dtype and memory format of `x`."""
    memory_format = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    return grad.to(x.dtype).contiguous(memory_format=memory_format)
