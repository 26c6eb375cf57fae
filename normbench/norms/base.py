"""The parts that norms share: the common formula, running averages of batch statistics, numbers of groups."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from normbench.errors import ConfigError
from normbench.kernels.spec import Activation, MomentsSpec
from normbench.layers.precision import like_input


class AffineNorm(nn.Module):
    """A norm that ends in ``y = (x - mean) / sqrt(variance + eps) * weight + bias``; subclasses define the statistics.

    `weight` (the scale) starts at 1 and `bias` (the shift) at 0, both ``(C,)``; both are None without `affine`.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, num_channels: int, *, eps: float, affine: bool = True, shift: bool = True) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.eps = eps
        self.register_parameter("weight", nn.Parameter(torch.ones(num_channels)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(num_channels)) if affine and shift else None)

    def normalize(self, x: torch.Tensor, mean: torch.Tensor | None, variance: torch.Tensor) -> torch.Tensor:
        """Return the common formula in the dtype and memory format of `x`.

        `mean` and `variance` broadcast against `x`, whose last three dimensions are ``(C, H, W)``. Without a mean, `x`
        is not centered and `variance` stands for the mean square.
        """
        centered = x if mean is None else x - mean
        return like_input(self.rescale(centered * torch.rsqrt(variance + self.eps)), x)

    def rescale(self, normalized: torch.Tensor) -> torch.Tensor:
        """Return ``normalized * weight + bias``, as far as the layer has them."""
        if self.weight is not None and self.bias is not None:
            return torch.addcmul(per_channel(self.bias), normalized, per_channel(self.weight))
        return normalized if self.weight is None else normalized * per_channel(self.weight)

    def kernel_arguments(self) -> dict[str, Any]:
        """Return the arguments of `kernels.norm_act` beside input and spec, for norms that have a `kernel_spec`."""
        return {"weight": self.weight, "bias": self.bias}

    def extra_repr(self) -> str:
        """Return what `print(model)` shows in the layer's parentheses."""
        return f"{self.num_channels}, eps={self.eps}, affine={self.weight is not None}"


def moments_spec(activation: Activation, **facts: Any) -> MomentsSpec | None:
    """Return the kernels' task with the activation, if any; None for an activation that they do not compute."""
    return MomentsSpec(activation=activation, **facts) if activation in ("none", "relu") else None


def per_channel(values: torch.Tensor) -> torch.Tensor:
    """View ``(C,)`` as ``(C, 1, 1)``, which broadcasts against ``(N, C, H, W)``."""
    return values[:, None, None]


def update_average(average: torch.Tensor, value: torch.Tensor, momentum: float) -> None:
    """Move the buffer `average` ``(C,)`` towards `value` (any shape of C elements) by the share `momentum`.

    The update is in place, so that a CUDA graph can hold it.
    """
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

    def kernel_arguments(self) -> dict[str, Any]:
        """Return those arguments of `kernels.norm_act` that say where and how the running averages are kept."""
        return {
            "running_mean": self.running_mean,
            "running_var": self.running_var,
            "momentum": self.momentum,
            "use_running": not self.training,
        }

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


def resolve_groups(
    norm: str, num_channels: int, groups: int | None, group_size: int | None, *, default: int | None = None
) -> int:
    """Return the number of groups: by `group_size` if given, else by `groups`, else `default`.

    Raises:
        ConfigError: they do not divide the channels, or nothing is given; the message lists what is allowed.
    """
    name, value = ("group_size", group_size) if group_size is not None else ("groups", groups)
    if value is None and default is not None:
        return default
    allowed = [divisor for divisor in range(1, num_channels + 1) if num_channels % divisor == 0]
    if value not in allowed:
        raise ConfigError(
            f"{norm}: {name}={value!r} does not divide {num_channels} channels. Allowed: {', '.join(map(str, allowed))}"
        )
    return num_channels // value if group_size is not None else value


def largest_divisor(num_channels: int, at_most: int = 32) -> int:
    """Return the largest divisor of `num_channels` that is at most `at_most`."""
    return max(divisor for divisor in range(1, at_most + 1) if num_channels % divisor == 0)
