"""Running averages of batch statistics, updated in place so that a CUDA graph can hold the update."""

from __future__ import annotations

import torch
from torch import nn


def update_average(average: torch.Tensor, value: torch.Tensor, momentum: float) -> None:
    """Move the buffer `average` ``(C,)`` towards `value` (any shape of C elements) by the share `momentum`."""
    average.lerp_(value.detach().flatten().to(average.dtype), momentum)


def bessel(num_values: int) -> float:
    """Return ``m / (m - 1)``, which turns a biased variance over m values into the unbiased one."""
    return num_values / max(num_values - 1, 1)


class BatchMoments(nn.Module):
    """Mean and variance over (N, H, W), put together from those over (H, W), with running averages for evaluation.

    Like `torch.nn.BatchNorm2d`, it normalizes with the biased variance and keeps the unbiased one.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, num_channels: int, *, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))

    def forward(self, mean: torch.Tensor, variance: torch.Tensor, pixels: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and variance, ``(1, C, 1, 1)``, from those of each sample over its `pixels`, ``(N, C, 1, 1)``."""
        if not self.training:
            return self.running_mean[None, :, None, None], self.running_var[None, :, None, None]
        batch_mean, batch_variance = pool_moments(mean, variance, dim=0)
        update_average(self.running_mean, batch_mean, self.momentum)
        update_average(self.running_var, batch_variance * bessel(len(mean) * pixels), self.momentum)
        return batch_mean, batch_variance


def pool_moments(mean: torch.Tensor, variance: torch.Tensor, *, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and biased variance of the union of equally large parts, given each part's along `dim`.

    The variance of the union is the mean of the variances plus the variance of the means, which, unlike a difference of
    mean squares, loses no digits when the mean is far from 0.
    """
    variance_of_means, pooled_mean = torch.var_mean(mean, dim=dim, correction=0, keepdim=True)
    return pooled_mean, variance.mean(dim, keepdim=True) + variance_of_means
