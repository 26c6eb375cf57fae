"""Norms whose statistics run over the batch: `(N, H, W)` for each channel."""

from __future__ import annotations

from torch import nn

from normbench.norms.options import check_eps


def batch_norm(num_channels: int, *, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True) -> nn.Module:
    """Batch Normalization (Ioffe & Szegedy 2015, arXiv 1502.03167).

    ``y = (x - mean) / sqrt(var + eps) * scale + shift`` with the mean and biased variance over (N, H, W) in training,
    and their running averages (of the unbiased variance) in evaluation.
    """
    check_eps("bn", eps)
    return nn.BatchNorm2d(num_channels, eps=eps, momentum=momentum, affine=affine)
