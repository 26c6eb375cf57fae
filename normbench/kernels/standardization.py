"""Weight standardization of many layers at once: what the program of each filter reads and writes, and two launches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normbench.kernels.launch import launch
from normbench.kernels.tiling import power_of_two

MAX_FAN_IN = 16384
"""Elements of a filter, at most: a program holds all of them in registers."""
_THREAD_ELEMENTS = 16
_MAX_WARPS = 32


@dataclass(frozen=True, kw_only=True)
class Standardization:
    """What becomes of a filter, the weights w of an output channel with mean m: ``(w - m) * scale``.

    With ``q = sum((w - m)^2)``, scale is ``1 / (sqrt(q / (fan_in - 1)) + constant)``; where `scaled` it is
    ``factor / sqrt(max(q, constant))``, times a learned gain per filter.
    """

    scaled: bool
    constant: float
    factor: float = 1.0


class Filters(NamedTuple):
    """The work of each program: a row for every filter, with addresses that are those of its layer, multiples of 16.

    The addresses are int64, ``(filters,)``. Weights of a filter are adjacent, and gradients are laid out as weights.
    """

    weights: Tensor
    """Of float32 weights."""
    outputs: Tensor
    """Of the standardized weights."""
    dweights: Tensor
    """Of the float32 gradients of the weights."""
    gains: Tensor
    """Of the float32 gains; 0 where there are none."""
    dgains: Tensor
    """Of their gradients."""
    places: Tensor
    """int32, ``(filters, 3)``: the filter's number within its layer; its elements; the elements of its layer."""
    statistics: Tensor
    """float32, ``(filters, 3)``: what the first kernel keeps for the second."""
    max_fan_in: int
    """The most elements of a filter."""
    dtype: torch.dtype
    """Of the standardized weights and their gradients."""


def standardize(filters: Filters, standardization: Standardization) -> None:
    """Write the standardized weights of all filters, and `statistics`."""
    from normbench.triton_code import standardization_kernels

    launch(
        standardization_kernels.standardize, (len(filters.places),),
        filters.weights, filters.outputs, filters.gains, filters.places, filters.statistics,
        standardization.constant, standardization.factor, **_code(filters, standardization),
    )  # fmt: skip


def standardize_backward(
    filters: Filters, gradients: Tensor, num_shares: Tensor, standardization: Standardization
) -> None:
    """Write the gradients of all weights and gains.

    Args:
        filters: with the `statistics` that `standardize` has written.
        gradients: int64, ``(filters,)``: the addresses of the layers' gradients of the standardized weights, multiples
            of 16; 0 stands for zeros.
        num_shares: int32, ``(filters,)``: how many float32 shares of that gradient stand there, one after the other, in
            place of it; their filters have a multiple of 16 elements. 0 is a gradient.
        standardization: that of the forward pass.
    """
    from normbench.triton_code import standardization_kernels

    launch(
        standardization_kernels.standardize_backward, (len(filters.places),),
        filters.weights, gradients, num_shares, filters.dweights, filters.gains, filters.dgains, filters.places,
        filters.statistics, **_code(filters, standardization),
    )  # fmt: skip


def _code(filters: Filters, standardization: Standardization) -> dict[str, Any]:
    """Return the compile-time arguments of both kernels."""
    import triton.language as tl

    block = power_of_two(filters.max_fan_in)
    return {
        "SCALED": standardization.scaled,
        "TYPE": {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}[filters.dtype],
        "BLOCK": block,
        "num_warps": min(max(block // (32 * _THREAD_ELEMENTS), 1), _MAX_WARPS),
    }
