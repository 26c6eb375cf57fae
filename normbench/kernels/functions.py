"""Launches the kernels as differentiable functions: what is allocated, kept and passed.

Imported only where Triton is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normbench.kernels import group_kernels, position_kernels
from normbench.kernels.plan import GroupPlan, plan_groups, plan_positions
from normbench.kernels.spec import NormActSpec
from normbench.kernels.support import unsupported_reason


@dataclass(frozen=True)
class Running:
    """BatchNorm's running statistics, and how to use them."""

    mean: Tensor
    var: Tensor
    num_batches: Tensor | None
    momentum: float
    frozen: bool


def norm_act(
    x: Tensor,
    spec: NormActSpec,
    weight: Tensor | None,
    bias: Tensor | None,
    extra: Tensor | None,
    running: tuple[Tensor, Tensor] | None,
    num_batches_tracked: Tensor | None,
    momentum: float,
    use_running: bool,
) -> Tensor:
    """See `normbench.kernels.norm_act`."""
    reason = unsupported_reason(x, spec)
    if reason is not None:
        raise ValueError(reason)
    if (running is not None or use_running) and spec.scope != "batch":
        raise ValueError(f"running statistics go with the scope 'batch', not {spec.scope!r}")
    if extra is not None and spec.activation not in ("tlu", "gate"):
        raise ValueError(f"activation {spec.activation!r} takes no extra parameter")
    state = None
    if running is not None:
        state = Running(*running, num_batches_tracked, momentum, use_running)
    elif use_running:
        raise ValueError("use_running needs running_mean and running_var")
    y: Tensor
    if spec.scope == "position":
        y = PositionNormAct.apply(x, weight, bias, spec)
    elif use_running:
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias, extra)):
            raise ValueError("no gradient through running statistics here; use torch.no_grad()")
        y, _, _ = group_forward(x, spec, weight, bias, extra, state)
    else:
        y = GroupNormAct.apply(x, weight, bias, extra, spec, state)
    return y


class GroupNormAct(torch.autograd.Function):
    """Scopes ``sample`` and ``batch``."""

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
        y, mean, rstd = group_forward(x, spec, weight, bias, extra, running)
        ctx.spec = spec
        ctx.save_for_backward(x, mean, rstd, weight, bias, extra)
        return y

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and of the three parameters."""
        return (*group_backward(grad, *ctx.saved_tensors, ctx.spec), None, None)


class PositionNormAct(torch.autograd.Function):
    """Scope ``position``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, spec: NormActSpec) -> Tensor:
        """Return the output and keep `x`."""
        n, channels, h, w = x.shape
        plan = plan_positions(n * h * w, channels)
        y = torch.empty_like(x)
        position_kernels.position_forward[(plan.tiles,)](
            x, y, weight, bias, spec.eps, n * h * w, h * w, channels,
            CHANNELS_LAST=is_channels_last(x), CENTERED=spec.centered, ACTIVATION=spec.activation,
            BLOCK_R=plan.block_r, BLOCK_C=plan.block_c, num_warps=plan.num_warps,
        )  # fmt: skip
        ctx.spec = spec
        ctx.save_for_backward(x, weight, bias)
        return y

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, weight and bias."""
        x, weight, bias = ctx.saved_tensors
        spec: NormActSpec = ctx.spec
        n, channels, h, w = x.shape
        plan = plan_positions(n * h * w, channels)
        dx = torch.empty_like(x)
        sums = None
        if weight is not None or bias is not None:
            sums = x.new_empty((plan.programs, 2, channels), dtype=torch.float32)
        position_kernels.position_backward[(plan.programs,)](
            x, like(grad, x), dx, weight, bias, sums, spec.eps, n * h * w, h * w, channels,
            CHANNELS_LAST=is_channels_last(x), CENTERED=spec.centered, ACTIVATION=spec.activation,
            BLOCK_R=plan.block_r, BLOCK_C=plan.block_c, num_warps=plan.num_warps,
        )  # fmt: skip
        d_bias, d_weight = (None, None) if sums is None else sums.sum(0)
        return dx, None if weight is None else d_weight, None if bias is None else d_bias, None


def group_forward(
    x: Tensor,
    spec: NormActSpec,
    weight: Tensor | None,
    bias: Tensor | None,
    extra: Tensor | None,
    running: Running | None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return the output and the statistics kept: mean (None where not centered) and 1 / sqrt(var + eps)."""
    samples, rows, channels, groups, plan = layout(x, spec)
    across = spec.scope == "batch"
    kept = 1 if across else samples
    y = torch.empty_like(x)
    frozen = running is not None and running.frozen
    mean = x.new_empty((kept, groups), dtype=torch.float32) if spec.centered else None
    rstd = x.new_empty((kept, groups), dtype=torch.float32)
    updated = (None, None, None, 0.0)
    if running is not None and not frozen:
        updated = (running.mean, running.var, running.num_batches, running.momentum)
    tile = tile_arguments(x, spec, plan)
    shape = (rows, channels, groups, plan.blocks)
    grid = (samples * plan.chunks * plan.blocks,)
    if not plan.split and not frozen:
        group_kernels.whole_forward[grid](
            x, y, mean, rstd, weight, bias, extra, *updated, spec.eps, *shape,
            ACTIVATION=spec.activation, EXTRA=extra_default(spec), ONE_TILE=plan.one_tile, **tile,
        )  # fmt: skip
        return y, mean, rstd

    chunking = (plan.chunks, plan.chunk_rows)
    if running is not None and running.frozen:
        part_mean, part_var, merged = running.mean, running.var, (1, 1, rows)
    else:
        part_mean = x.new_empty((samples * plan.chunks, groups), dtype=torch.float32) if spec.centered else None
        part_var = x.new_empty((samples * plan.chunks, groups), dtype=torch.float32)
        group_kernels.split_statistics[grid](x, part_mean, part_var, *shape, *chunking, **tile)
        merged = (plan.chunks * (samples if across else 1), *chunking)
    group_kernels.split_forward[grid](
        x, y, part_mean, part_var, mean, rstd, weight, bias, extra, *updated, spec.eps, *shape, *chunking, *merged,
        ACROSS=across, ACTIVATION=spec.activation, EXTRA=extra_default(spec), BLOCK_P=plan.block_p, **tile,
    )  # fmt: skip
    return y, mean, rstd


def group_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    extra: Tensor | None,
    spec: NormActSpec,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, weight, bias and extra."""
    samples, rows, channels, groups, plan = layout(x, spec)
    across = spec.scope == "batch"
    dy = like(grad, x)
    dx = torch.empty_like(x)
    terms = 2 if extra is None else 3
    learnable = any(parameter is not None for parameter in (weight, bias, extra))
    tile = tile_arguments(x, spec, plan)
    code = {"ACTIVATION": spec.activation, "EXTRA": extra_default(spec), "TERMS": terms}
    shape = (rows, channels, groups, plan.blocks)
    grid = (samples * plan.chunks * plan.blocks,)
    sums = None
    if plan.split:
        parts = x.new_empty((samples * plan.chunks, terms, channels), dtype=torch.float32)
        chunking = (plan.chunks, plan.chunk_rows)
        group_kernels.split_gradients[grid](
            x, dy, parts, mean, rstd, weight, bias, extra, *shape, *chunking, ACROSS=across, **code, **tile
        )
        totals = x.new_empty((terms, channels), dtype=torch.float32) if across and learnable else None
        group_kernels.split_backward[grid](
            x, dy, dx, parts, mean, rstd, weight, bias, extra, totals, *shape, *chunking,
            plan.chunks * (samples if across else 1), ACROSS=across, BLOCK_P=plan.block_p, **code, **tile,
        )  # fmt: skip
        sums = totals if across or not learnable else parts.sum(0)
    else:
        shares = x.new_empty((samples, terms, channels), dtype=torch.float32) if learnable else None
        group_kernels.whole_backward[grid](
            x, dy, dx, mean, rstd, weight, bias, extra, shares, *shape, ONE_TILE=plan.one_tile, **code, **tile
        )
        if shares is not None:
            sums = shares[0] if samples == 1 else shares.sum(0)
    if sums is None:
        return dx, None, None, None
    return (
        dx,
        None if weight is None else sums[1],
        None if bias is None else sums[0],
        None if extra is None else sums[2],
    )


def layout(x: Tensor, spec: NormActSpec) -> tuple[int, int, int, int, GroupPlan]:
    """Return samples, rows, channels, groups and the plan. In channels_last a batch is one sample of N*H*W rows."""
    n, channels, h, w = x.shape
    across = spec.scope == "batch"
    samples, rows = (1, n * h * w) if across and is_channels_last(x) else (n, h * w)
    groups = spec.num_groups(channels)
    return samples, rows, channels, groups, plan_groups(samples, rows, channels, groups, across_samples=across)


def tile_arguments(x: Tensor, spec: NormActSpec, plan: GroupPlan) -> dict[str, Any]:
    """Return the compile-time arguments that all group kernels take."""
    return {
        "CHANNELS_LAST": is_channels_last(x),
        "CENTERED": spec.centered,
        "GROUP_SIZE": plan.group_size,
        "GROUP_PAD": plan.group_pad,
        "BLOCK_R": plan.block_r,
        "BLOCK_C": plan.block_c,
        "num_warps": plan.num_warps,
    }


def extra_default(spec: NormActSpec) -> float:
    """Return what an absent `extra` stands for."""
    return 1.0 if spec.activation == "gate" else 0.0


def is_channels_last(x: Tensor) -> bool:
    """Return whether channels are adjacent in memory."""
    return x.is_contiguous(memory_format=torch.channels_last)


def like(grad: Tensor, x: Tensor) -> Tensor:
    """Return `grad` in the dtype and memory format of `x`."""
    memory_format = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    return grad.to(x.dtype).contiguous(memory_format=memory_format)
