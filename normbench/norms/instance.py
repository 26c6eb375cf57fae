"""Norms whose statistics run over one channel of one sample: `(H, W)`."""

from __future__ import annotations

from torch import nn

from normbench.norms.options import check_eps


def instance_norm(num_channels: int, *, eps: float = 1e-5, affine: bool = False) -> nn.Module:
    """Instance Normalization (Ulyanov et al. 2016, arXiv 1607.08022): mean and biased variance over (H, W)."""
    check_eps("in", eps)
    return nn.InstanceNorm2d(num_channels, eps=eps, affine=affine)
