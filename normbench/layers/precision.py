"""Helpers of layers that compute statistics in float32 and return the input's dtype and memory format."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def widen(x: torch.Tensor) -> torch.Tensor:
    """Return `x` in float32, or as it is in float64: bf16 and fp16 squares lose digits or overflow."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def without_autocast(x: torch.Tensor) -> AbstractContextManager[object]:
    """Return a context in which products of tensors on the device of `x` keep their own precision."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def like_input(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return `y` in the dtype of `x`, and channels_last if `x` is."""
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        y = y.contiguous(memory_format=torch.channels_last)
    return y.to(x.dtype)


def kernel_dtype(x: torch.Tensor, weight: torch.Tensor) -> torch.dtype | None:
    """Return the dtype in which torch would multiply `x` by `weight`: autocast's, or the one that they share.

    None where no kernel of our own may be asked: where they differ, while compiling, and on the meta device.
    """
    if torch.compiler.is_compiling() or x.is_meta:
        return None
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype if weight.dtype == x.dtype else None


def group_channels(x: torch.Tensor, num_groups: int) -> torch.Tensor:
    """View ``(N, C, H, W)`` as ``(N, G, C/G, H, W)``, in any memory format."""
    grouped: torch.Tensor = x.unflatten(1, (num_groups, -1))
    return grouped


def ungroup_statistic(statistic: torch.Tensor, group_size: int) -> torch.Tensor:
    """Give each channel its group's value: ``(N, G, 1, 1, 1)`` to ``(N, C, 1, 1)``."""
    return statistic.expand(-1, -1, group_size, -1, -1).flatten(1, 2)


def require_several_values(norm: str, num_values: int, x: torch.Tensor) -> None:
    """Raise `ValueError` where a variance would be taken over one value: it is 0 and the layer would be dead."""
    if num_values < 2:
        raise ValueError(
            f"{norm}: each variance would cover a single value of the input {tuple(x.shape)} and be 0; "
            "it takes more samples, a larger image or more channels per group"
        )
