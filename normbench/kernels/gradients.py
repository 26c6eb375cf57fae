"""The gradients of parameters: sums of the shares that the programs of a backward pass leave.

The last program sums them where they are few (`counters`), and otherwise a launch of its own (`summed`). Imported only
where Triton is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from normbench.kernels import group_kernels, plan
from normbench.kernels.plan import Tiles, plan_sums


class Parameters(NamedTuple):
    """Learned parameters, each ``(C,)`` or absent; also their gradients."""

    weight: Tensor | None
    bias: Tensor | None
    extra: Tensor | None


def counters(x: Tensor, shares: int, blocks: int, tiles: Tiles, parameters: Parameters) -> Tensor | None:
    """Return a counter for each block of channels, or None where the last program is not to sum the shares."""
    if is_learnable(parameters) and plan.last_sums(shares, num_terms(parameters), tiles):
        return x.new_empty(blocks, dtype=torch.int32)
    return None


def last_tile(terms: int, tiles: Tiles) -> dict[str, int]:
    """Return the compile-time arguments for the last program's sums."""
    return {"BLOCK_P": plan.last_block(terms, tiles), "UNROLL": plan.LAST_UNROLL}


def is_learnable(parameters: Parameters) -> bool:
    """Return whether there are parameters."""
    return any(parameter is not None for parameter in parameters)


def num_terms(parameters: Parameters) -> int:
    """Return how many gradients of parameters the kernels compute: bias, weight and, where it is there, extra."""
    return 2 if parameters.extra is None else 3


def summed(shares: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return ``(parts, terms, C)`` summed over the parts and rounded to `dtype`, in one small launch."""
    parts, terms, channels = shares.shape
    if parts == 1:
        return shares[0].to(dtype)
    sums = shares.new_empty((terms, channels), dtype=dtype)
    cut = plan_sums(parts, terms * channels)
    group_kernels.add_shares[(cut.programs,)](
        shares, sums, parts, terms * channels, BLOCK_P=cut.block_p, BLOCK_C=cut.block_c, **cut.launch
    )
    return sums


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
