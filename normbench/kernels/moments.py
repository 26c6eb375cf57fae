"""Norms by several statistics, with the activation after them, as one operation: what it allocates, keeps, launches.

One pass over the input leaves the mean and variance of each sample and channel, from which every statistic of instance,
layer, group and batch follows; a second computes the output. Backward, one pass leaves two sums of each sample and
channel, and a second computes the input's gradient. Nothing is added by atomics.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normbench.kernels import tiling
from normbench.kernels.launch import launch
from normbench.kernels.norm_activation import like, summed, unsupported_groups_reason
from normbench.kernels.spec import MomentsSpec
from normbench.kernels.support import is_channels_last, unsupported_input_reason
from normbench.kernels.tiling import MomentsTiling, ceil_div, stages, tile_moments


class MomentsParameters(NamedTuple):
    """What a formula of `MomentsSpec` takes beside the input; also the gradients of it."""

    weight: Tensor | None
    bias: Tensor | None
    extra: Tensor | None
    extra2: Tensor | None


@dataclass(frozen=True)
class RunningMoments:
    """Running statistics of the batch, and how to use them."""

    mean: Tensor | None
    var: Tensor
    num_batches: Tensor | None
    momentum: float
    frozen: bool
    """Whether they normalize, unchanged, instead of being updated."""


class Kept(NamedTuple):
    """What the forward pass leaves for the backward pass beside the input."""

    moments: Tensor | None
    """Mean and variance of each sample and channel, ``(N, 2, C)``, where statistics of the sample take part."""
    columns: Tensor | None
    """Mean, variance and, with renormalization, r and d of each sub-batch, ``(sub-batches, 4, C)``."""


def moments_norm_act(
    x: Tensor,
    spec: MomentsSpec,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    extra: Tensor | None = None,
    extra2: Tensor | None = None,
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
        extra: first parameter of the spec's formula, float32.
        extra2: second parameter of the spec's formula, float32.
        running_mean: ``(C,)``, updated in place; of the channels with batch statistics only. EvoNorm has none.
        running_var: likewise, by the spec's formula.
        num_batches_tracked: counts the updates; a scalar.
        momentum: weight of the new batch in the running statistics.
        use_running: normalize by the running statistics and leave them alone; a gradient only where
            `MomentsSpec.differentiates_running` says so.

    Raises:
        ValueError: `unsupported_moments_reason` has a reason, or an argument does not go with `spec`.
    """
    reason = unsupported_moments_reason(x, spec)
    if reason is not None:
        raise ValueError(reason)
    if use_running and running_var is None:
        raise ValueError("use_running needs running statistics")
    if spec.renorm and running_var is None:
        raise ValueError("a renormalization needs running statistics")
    running = _running(spec, running_mean, running_var, num_batches_tracked, momentum, use_running)
    parameters = MomentsParameters(weight, bias, extra, extra2)
    if (
        use_running
        and not spec.differentiates_running
        and torch.is_grad_enabled()
        and any(t is not None and t.requires_grad for t in (x, *parameters))
    ):
        raise ValueError("no gradient through running statistics; use torch.no_grad()")
    y: Tensor = MomentsNormAct.apply(x, *parameters, spec, running)
    return y


def unsupported_moments_reason(x: Tensor, spec: MomentsSpec) -> str | None:
    """Return None where `moments_norm_act` can run on `x`, ``(N, C, H, W)``, and otherwise why not, in one line."""
    reason = unsupported_input_reason(x) or unsupported_groups_reason(x, spec)
    if reason is not None:
        return reason
    samples, channels, rows = len(x), x.shape[1], x.shape[2] * x.shape[3]
    last = samples % spec.sub_batch or spec.sub_batch if spec.sub_batch else samples
    counts = [channels // spec.num_groups(channels) * rows] if spec.formula in ("switch", "batch_group") else []
    counts += [last * rows] if spec.batch else []
    counts += [rows] if spec.instance_channels else []
    return "statistics of a single value" if min(counts) == 1 else None


class MomentsNormAct(torch.autograd.Function):
    """The operation of `moments_norm_act`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        extra: Tensor | None,
        extra2: Tensor | None,
        spec: MomentsSpec,
        running: RunningMoments | None,
    ) -> Tensor:
        """Return the output and keep `x` and the statistics."""
        parameters = MomentsParameters(weight, bias, extra, extra2)
        y, kept = moments_forward(x, spec, parameters, running)
        ctx.spec = spec
        ctx.running = running
        ctx.save_for_backward(x, *kept, *parameters)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and of the parameters."""
        x, moments, columns, *parameters = ctx.saved_tensors
        learned = any(ctx.needs_input_grad[1:5])
        dx, gradients = moments_backward(
            grad, x, Kept(moments, columns), ctx.spec, MomentsParameters(*parameters), ctx.running, learned=learned
        )
        return (dx, *gradients, None, None)


def moments_forward(
    x: Tensor, spec: MomentsSpec, parameters: MomentsParameters, running: RunningMoments | None
) -> tuple[Tensor, Kept]:
    """Return the output and what is kept for the backward pass."""
    from normbench.triton_code import moments_kernels

    tiles = _tiles(x, spec)
    source = _source(spec, running)
    shape, cut, tile = _shape(x, tiles), _cut(tiles), _tile(x, tiles)
    grid, channels = (tiles.programs,), x.shape[1]
    y = torch.empty_like(x)
    of_rows = of_parts = merged = columns = snapshot = None
    mean, var, num_batches, momentum = _running_arguments(running)
    if spec.by_instance or source == "batch":
        if spec.by_instance:
            of_rows = _float32(x, len(x) * tiles.row_chunks, 2, channels)
        if source == "batch":
            of_parts = _float32(x, tiles.subs * tiles.parts, 2, channels)
            columns = _float32(x, tiles.subs, 4, channels)
            snapshot = _float32(x, 2, channels) if spec.renorm else None
        launch(
            moments_kernels.moments, grid,
            x, of_rows, of_parts, mean if spec.renorm else None, var if spec.renorm else None, snapshot,
            *shape, tiles.blocks, *cut, **tile,
        )  # fmt: skip
    if of_parts is not None and _merges_beforehand(tiles, 1):
        merged = _float32(x, 1, 2, channels)
        block_c = min(tiling.SUM_COLUMNS, tiles.block_c)
        launch(
            moments_kernels.merge_moments, (ceil_div(channels, block_c),),
            of_parts, merged, *shape, *cut,
            BLOCK_P=min(tiling.SUM_TILE // block_c, tiling.power_of_two(tiles.parts)), BLOCK_C=block_c,
        )  # fmt: skip
    split = spec.by_instance and tiles.row_chunks > 1
    moments = _float32(x, len(x), 2, channels) if split else of_rows
    launch(
        moments_kernels.apply, grid,
        x, y, of_rows, moments, of_parts, merged, columns, snapshot, *parameters, mean, var, num_batches, momentum,
        spec.eps, spec.instance_channels, *shape, tiles.blocks, *cut,
        SPLIT_ROWS=split, ONE_SUB=tiles.subs == 1, BLOCK_K=tiles.block_k, **_merging(tiles), **_code(spec, source),
        **tile,
    )  # fmt: skip
    return y, Kept(moments, columns)


def moments_backward(
    grad: Tensor,
    x: Tensor,
    kept: Kept,
    spec: MomentsSpec,
    parameters: MomentsParameters,
    running: RunningMoments | None,
    *,
    learned: bool,
) -> tuple[Tensor, MomentsParameters]:
    """Return the gradients of x and of the parameters; with `learned`, of all those that can be learned."""
    from normbench.triton_code import moments_kernels

    tiles = _tiles(x, spec)
    source = _source(spec, running)
    shape, cut, tile = _shape(x, tiles), _cut(tiles), _tile(x, tiles)
    grid, channels = (tiles.programs,), x.shape[1]
    dy, dx = like(grad, x), torch.empty_like(x)
    mean, var, _, _ = _running_arguments(running)
    code = {"TERMS": _terms(spec), **_code(spec, source)}
    sums = terms = gradients = None
    term_parts = tiles.parts
    if spec.by_instance or source == "batch" or learned:
        sums = _float32(x, len(x) * tiles.row_chunks, 2, channels) if spec.by_instance else None
        terms = _float32(x, tiles.subs * tiles.parts, _terms(spec), channels)
        launch(
            moments_kernels.sum_gradients, grid,
            x, dy, sums, terms, *kept, *parameters, mean, var, spec.eps, spec.instance_channels,
            *shape, tiles.blocks, *cut, **code, **tile,
        )  # fmt: skip
        if _merges_beforehand(tiles, _terms(spec)):
            terms, term_parts = summed(terms)[None], 1
    if learned:
        gradients = _float32(x, 4, max(channels, 4))
    launch(
        moments_kernels.input_gradient, grid,
        x, dy, dx, sums, terms, *kept, gradients, *parameters, mean, var, spec.eps, spec.instance_channels, term_parts,
        *shape, tiles.blocks, *cut,
        SPLIT_ROWS=tiles.row_chunks > 1, **_merging(tiles), **code, **tile,
    )  # fmt: skip
    return dx, _gradients_from(gradients, spec, parameters)


def launch_all(x: Tensor, spec: MomentsSpec, **arguments: Any) -> None:
    """Launch every kernel that `moments_norm_act` and its gradient launch with such arguments, in either mode."""
    parameters = MomentsParameters(*(arguments.get(name) for name in MomentsParameters._fields))
    running = _running(spec, **{name: arguments[name] for name in _RUNNING if name in arguments})
    if running is not None:
        moments_forward(x, spec, parameters, replace(running, frozen=True))
    y, kept = moments_forward(x, spec, parameters, running)
    learned = any(parameter is not None and parameter.requires_grad for parameter in parameters)
    moments_backward(y, x, kept, spec, parameters, running, learned=learned)


_RUNNING = ("running_mean", "running_var", "num_batches_tracked", "momentum", "use_running")


def _running(
    spec: MomentsSpec,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    num_batches_tracked: Tensor | None = None,
    momentum: float = 0.1,
    use_running: bool = False,
) -> RunningMoments | None:
    if running_var is None or not spec.batch:
        return None
    return RunningMoments(running_mean, running_var, num_batches_tracked, momentum, use_running)


def _tiles(x: Tensor, spec: MomentsSpec) -> MomentsTiling:
    samples, channels, height, width = x.shape
    return tile_moments(samples, height * width, channels, spec.num_groups(channels), spec.sub_batch)


def _merges_beforehand(tiles: MomentsTiling, terms: int) -> bool:
    """Return whether one launch merges partial results that each program would otherwise merge again."""
    return tiles.subs == 1 and tiles.parts * tiles.block_c * terms > tiling.MERGED_BY_EACH


def _source(spec: MomentsSpec, running: RunningMoments | None) -> str:
    """Return whose statistics stand for the batch's: ``batch``, ``running`` or ``none``."""
    if not spec.batch:
        return "none"
    return "running" if running is not None and running.frozen else "batch"


def _shape(x: Tensor, tiles: MomentsTiling) -> tuple[int, int, int]:
    """Return samples, rows and channels."""
    return len(x), x.shape[2] * x.shape[3], x.shape[1]


def _cut(tiles: MomentsTiling) -> tuple[int, ...]:
    """Return the numbers that cut samples and rows into parts."""
    return tiles.parts, tiles.samples_per, tiles.row_chunks, tiles.chunk_rows, tiles.sub


def _merging(tiles: MomentsTiling) -> dict[str, Any]:
    """Return how many parts are merged at a time, of a sub-batch and of a sample."""
    return {"BLOCK_P": tiles.block_p, "BLOCK_Q": tiles.block_q}


def _tile(x: Tensor, tiles: MomentsTiling) -> dict[str, Any]:
    """Return the compile-time arguments that say what a tile is."""
    return {
        "CHANNELS_LAST": is_channels_last(x),
        "GROUP_SIZE": tiles.group_size,
        "GROUP_PAD": tiles.group_pad,
        "BLOCK_S": tiles.block_s,
        "BLOCK_R": tiles.block_r,
        "BLOCK_C": tiles.block_c,
        "ONE_TILE": tiles.one_tile,
        "STAGES": stages(x.element_size()),
        "num_warps": tiles.num_warps,
    }


def _code(spec: MomentsSpec, source: str) -> dict[str, Any]:
    """Return the compile-time arguments that say what is computed."""
    return {
        "FORMULA": spec.formula,
        "RELU": spec.activation == "relu",
        "BATCH": source,
        "BY_INSTANCE": spec.by_instance,
        "GATED": spec.gated,
        "RENORM": spec.renorm,
    }


def _terms(spec: MomentsSpec) -> int:
    """Return how many terms the backward pass sums over samples."""
    if spec.formula == "switch":
        return 8
    return 4 if spec.gated or spec.formula in ("batch_group", "evonorm_b0") else 3


def _running_arguments(running: RunningMoments | None) -> tuple[Tensor | None, Tensor | None, Tensor | None, float]:
    if running is None:
        return None, None, None, 0.0
    return running.mean, running.var, running.num_batches, running.momentum


def _gradients_from(gradients: Tensor | None, spec: MomentsSpec, parameters: MomentsParameters) -> MomentsParameters:
    """Pick the gradients of the parameters that are learned from ``(4, at least C)``: bias, weight, extra, extra2."""
    if gradients is None:
        return MomentsParameters(None, None, None, None)
    weight, bias, extra, extra2 = parameters
    limits = spec.renorm  # which are no parameters
    return MomentsParameters(
        None if weight is None else gradients[1, : len(weight)],
        None if bias is None else gradients[0, : len(bias)],
        None if extra is None or limits else gradients[2, : len(extra)],
        None if extra2 is None or limits else gradients[3, : len(extra2)],
    )


def _float32(x: Tensor, *shape: int) -> Tensor:
    return x.new_empty(shape, dtype=torch.float32)
