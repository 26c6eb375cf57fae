"""Norms whose statistics run over groups of channels of one sample: `(C/G, H, W)`."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from normbench.kernels.spec import Activation, NormActSpec
from normbench.layers.precision import (
    group_channels,
    like_input,
    require_several_values,
    ungroup_statistic,
    widen,
)
from normbench.norms.base import AffineNorm, resolve_groups

_MIN_WIDE_GROUP = 16
"""Channels of a group from which on torch's loop over them fills vectors."""


class GroupNorm(AffineNorm):
    """Group Normalization (Wu & He 2018, arXiv 1803.08494): mean and biased variance over (C/G, H, W).

    With one group it is Layer Normalization (arXiv 1607.06450) with an affine per channel, with C groups Instance
    Normalization. `name` is how errors call it.
    """

    def __init__(
        self, num_channels: int, *, num_groups: int, name: str = "gn", eps: float = 1e-5, affine: bool = True
    ) -> None:
        super().__init__(num_channels, eps=eps, affine=affine)
        self.name = name
        self.num_groups = num_groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized `x`; raises `ValueError` where a group has a single value."""
        require_several_values(self.name, x[0].numel() // self.num_groups, x)
        values = x if self._widens_itself(x) else widen(x)
        dtype = widen(x[:0]).dtype
        weight = None if self.weight is None else self.weight.to(dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        return like_input(F.group_norm(values, self.num_groups, weight, bias, self.eps), x)

    def _widens_itself(self, x: torch.Tensor) -> bool:
        """Return whether torch computes in float32 by itself, and faster: in bf16 with float32 parameters, on a CPU.

        It took a third of the time (64 channels in 4 groups), but three times as long for groups of few channels.
        """
        is_wide = self.num_channels // self.num_groups >= _MIN_WIDE_GROUP
        return x.device.type == "cpu" and x.dtype == torch.bfloat16 and self.weight is not None and is_wide

    def kernel_spec(self, activation: Activation) -> NormActSpec:
        """Return which kernel computes the layer and the activation."""
        return NormActSpec(scope="sample", groups=self.num_groups, activation=activation, eps=self.eps)

    def extra_repr(self) -> str:
        """Return what `print(model)` shows in the layer's parentheses."""
        return f"{super().extra_repr()}, num_groups={self.num_groups}"


def group_norm(
    num_channels: int, *, groups: int | None = 4, group_size: int | None = None, eps: float = 1e-5, affine: bool = True
) -> GroupNorm:
    """Group Normalization (arXiv 1803.08494); `group_size` takes the place of `groups` when given.

    Raises:
        ConfigError: the groups do not divide the channels.
    """
    num_groups = resolve_groups("gn", num_channels, groups, group_size)
    return GroupNorm(num_channels, num_groups=num_groups, eps=eps, affine=affine)


def instance_norm(num_channels: int, *, eps: float = 1e-5, affine: bool = False) -> GroupNorm:
    """Instance Normalization (Ulyanov, Vedaldi & Lempitsky 2016, arXiv 1607.08022): statistics over (H, W).

    Equal to `torch.nn.InstanceNorm2d`, which unlike this layer loses the channels_last format.
    """
    return GroupNorm(num_channels, num_groups=num_channels, name="in", eps=eps, affine=affine)


class GroupRMSNorm(AffineNorm):
    """RMS normalization of channel groups: ``y = x / sqrt(mean square over (C/G, H, W) + eps) * scale``.

    RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467) with the groups of GN (arXiv 1803.08494); `shift` adds a shift.
    """

    def __init__(
        self,
        num_channels: int,
        *,
        groups: int | None = 4,
        group_size: int | None = None,
        eps: float = 1e-5,
        affine: bool = True,
        shift: bool = False,
    ) -> None:
        super().__init__(num_channels, eps=eps, affine=affine, shift=shift)
        self.num_groups = resolve_groups("group_rms", num_channels, groups, group_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` divided by the root mean square of its group."""
        grouped = group_channels(widen(x), self.num_groups)
        mean_square = grouped.square().mean(dim=(2, 3, 4), keepdim=True)
        return self.normalize(x, None, ungroup_statistic(mean_square, grouped.shape[2]))

    def kernel_spec(self, activation: Activation) -> NormActSpec:
        """Return which kernel computes the layer and the activation."""
        return NormActSpec(scope="sample", groups=self.num_groups, centered=False, activation=activation, eps=self.eps)

    def extra_repr(self) -> str:
        """Return what `print(model)` shows in the layer's parentheses."""
        return f"{super().extra_repr()}, num_groups={self.num_groups}"
