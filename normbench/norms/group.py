"""Norms whose statistics run over groups of channels of one sample: `(C/G, H, W)`."""

from __future__ import annotations

from torch import nn

from normbench.norms.options import check_eps, resolve_groups


def group_norm(
    num_channels: int, *, groups: int | None = 4, group_size: int | None = None, eps: float = 1e-5, affine: bool = True
) -> nn.Module:
    """Group Normalization (Wu & He 2018, arXiv 1803.08494): mean and biased variance over (C/G, H, W).

    `group_size` takes the place of `groups` when given.
    """
    check_eps("gn", eps)
    num_groups = resolve_groups("gn", num_channels, groups if group_size is None else None, group_size)
    return nn.GroupNorm(num_groups, num_channels, eps=eps, affine=affine)


def layer_norm(num_channels: int, *, eps: float = 1e-5, affine: bool = True) -> nn.Module:
    """Layer Normalization over (C, H, W) with a per-channel affine, which is GroupNorm(1, C) (arXiv 1607.06450)."""
    check_eps("ln", eps)
    return nn.GroupNorm(1, num_channels, eps=eps, affine=affine)
