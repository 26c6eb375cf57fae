"""Mixtures of instance, layer and batch statistics; all come from one pass over the input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from normbench.errors import ConfigError
from normbench.kernels.spec import Activation, MomentsSpec
from normbench.layers.hooks import TrainingHooks
from normbench.layers.precision import group_channels, like_input, require_several_values, widen
from normbench.norms.base import (
    AffineNorm,
    BatchMoments,
    largest_divisor,
    moments_spec,
    per_channel,
    pool_moments,
    resolve_groups,
)


def instance_moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and biased variance over (H, W), each ``(N, C, 1, 1)``."""
    variance, mean = torch.var_mean(widen(x), dim=(2, 3), correction=0, keepdim=True)
    return mean, variance


class SwitchableNorm(AffineNorm):
    """Switchable Normalization (Luo et al. 2018, arXiv 1806.10779).

    The common formula with ``mean = sum_k w_k mean_k`` and ``var = sum_k w'_k var_k`` over instance, layer and batch
    statistics; w and w' are separate softmaxes of learned logits that all channels share. Without `use_bn` the batch
    statistics are left out. From the formula, not from the authors' code, which differs: all variances here are biased,
    and the running ones are BN's (unbiased, 1 at first).
    """

    def __init__(
        self, num_channels: int, *, use_bn: bool = True, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ) -> None:
        super().__init__(num_channels, eps=eps, affine=affine)
        num_kinds = 3 if use_bn else 2
        self.mean_logits = nn.Parameter(torch.ones(num_kinds))  # instance, layer, batch
        self.variance_logits = nn.Parameter(torch.ones(num_kinds))
        self.batch = BatchMoments(num_channels, momentum=momentum) if use_bn else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized `x`; raises `ValueError` in training on one value per channel."""
        if self.batch is None or self.training:
            num_values = x[0].numel() if self.batch is None else x.numel() // self.num_channels
            require_several_values("sn", num_values, x)
        instance = instance_moments(x)
        kinds = [instance, pool_moments(*instance, dim=1)]
        if self.batch is not None:
            kinds.append(self.batch(*instance, x.shape[2] * x.shape[3]))
        mean = _weighted_sum(torch.softmax(self.mean_logits, 0), [mean for mean, _ in kinds])
        variance = _weighted_sum(torch.softmax(self.variance_logits, 0), [variance for _, variance in kinds])
        return self.normalize(x, mean, variance)

    def kernel_spec(self, activation: Activation) -> MomentsSpec | None:
        """Return which kernel computes the layer and the activation."""
        return moments_spec(activation, formula="switch", batch=self.batch is not None, eps=self.eps)

    def kernel_arguments(self) -> dict[str, Any]:
        """Return the arguments of `kernels.norm_act` beside input and spec."""
        return {
            **super().kernel_arguments(),
            **({} if self.batch is None else self.batch.kernel_arguments()),
            "extra": self.mean_logits,
            "extra2": self.variance_logits,
        }


def _weighted_sum(weights: torch.Tensor, values: list[torch.Tensor]) -> torch.Tensor:
    total = torch.zeros_like(weights[0])
    for weight, value in zip(weights, values, strict=True):
        total = total + weight * value
    return total


class BatchInstanceNorm(AffineNorm, TrainingHooks):
    """Batch-Instance Normalization (Nam & Kim 2018, arXiv 1805.07925).

    ``y = (gate * BN(x) + (1 - gate) * IN(x)) * scale + shift`` with one gate per channel, 1 at first, which is BN. The
    training loop clamps the gates to [0, 1] after each step and gives them ten times the learning rate.
    """

    def __init__(self, num_channels: int, *, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True) -> None:
        super().__init__(num_channels, eps=eps, affine=affine)
        self.gate = nn.Parameter(torch.ones(num_channels))
        self.batch = BatchMoments(num_channels, momentum=momentum)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized `x`; raises `ValueError` in training on one value per channel."""
        if self.training:
            require_several_values("bin", x.numel() // self.num_channels, x)
        instance_mean, instance_variance = instance_moments(x)
        batch_mean, batch_variance = self.batch(instance_mean, instance_variance, x.shape[2] * x.shape[3])
        gate = per_channel(self.gate)
        batch_scale = gate * torch.rsqrt(batch_variance + self.eps)
        instance_scale = (1 - gate) * torch.rsqrt(instance_variance + self.eps)
        # BN and IN differ only in a scale and a shift per sample and channel, so that one pass over x applies both.
        shift = (instance_mean - batch_mean) * batch_scale
        return like_input(self.rescale((x - instance_mean) * (batch_scale + instance_scale) + shift), x)

    def kernel_spec(self, activation: Activation) -> MomentsSpec | None:
        """Return which kernel computes the layer and the activation."""
        return moments_spec(activation, formula="batch_instance", gated=True, eps=self.eps)

    def kernel_arguments(self) -> dict[str, Any]:
        """Return the arguments of `kernels.norm_act` beside input and spec."""
        return {**super().kernel_arguments(), **self.batch.kernel_arguments(), "extra": self.gate}

    @torch.no_grad()
    def after_step(self) -> None:
        """Clamp the gates to [0, 1]."""
        self.gate.clamp_(0, 1)

    def learning_rate_factors(self) -> Mapping[str, float]:
        """Give the gates ten times the learning rate, as the authors do."""
        return {"gate": 10.0}


class IBNa(AffineNorm):
    """IBN-a (Pan, Luo, Shi & Tang 2018, arXiv 1807.09441): IN of the first `ratio` of the channels, BN of the rest.

    The paper uses it for the first norm of each residual block in the first three stages; here it stands wherever the
    model has a norm.
    """

    def __init__(
        self, num_channels: int, *, ratio: float = 0.5, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ) -> None:
        super().__init__(num_channels, eps=eps, affine=affine)
        self.num_instance = int(num_channels * ratio)
        if self.num_instance == 0:
            raise ConfigError(f"ibn: ratio={ratio} of {num_channels} channels leaves none for instance normalization")
        self.batch = BatchMoments(num_channels - self.num_instance, momentum=momentum)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized `x`; raises `ValueError` where each image has a single pixel."""
        pixels = x.shape[2] * x.shape[3]
        require_several_values("ibn", pixels, x)
        sizes = (self.num_instance, self.num_channels - self.num_instance)
        means, variances = instance_moments(x)
        instance_mean, rest_mean = means.split(sizes, dim=1)
        instance_variance, rest_variance = variances.split(sizes, dim=1)
        batch_mean, batch_variance = self.batch(rest_mean, rest_variance, pixels)
        mean = torch.cat((instance_mean, batch_mean.expand_as(rest_mean)), dim=1)
        variance = torch.cat((instance_variance, batch_variance.expand_as(rest_variance)), dim=1)
        return self.normalize(x, mean, variance)

    def kernel_spec(self, activation: Activation) -> MomentsSpec | None:
        """Return which kernel computes the layer and the activation."""
        return moments_spec(activation, formula="batch_instance", instance_channels=self.num_instance, eps=self.eps)

    def kernel_arguments(self) -> dict[str, Any]:
        """Return the arguments of `kernels.norm_act` beside input and spec."""
        return {**super().kernel_arguments(), **self.batch.kernel_arguments()}

    def extra_repr(self) -> str:
        """Return what `print(model)` shows in the layer's parentheses."""
        return f"{super().extra_repr()}, num_instance={self.num_instance}"


class BatchChannelNorm(nn.Module):
    """Batch-Channel Normalization (Qiao et al. 2019, arXiv 1911.09738): BN, then GN with an affine per group.

    The large-batch form, with the batch statistics of BN. The paper pairs it with weight standardization (``bcn+ws``).
    Groups: by default 32, or the largest divisor of the channels below that which leaves two channels a group, since
    the second normalization of a single channel would undo the first.
    """

    def __init__(
        self,
        num_channels: int,
        *,
        groups: int | None = None,
        group_size: int | None = None,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        default = largest_divisor(num_channels, at_most=max(1, min(32, num_channels // 2)))
        self.num_groups = resolve_groups("bcn", num_channels, groups, group_size, default=default)
        self.eps = eps
        self.batch_norm = nn.BatchNorm2d(num_channels, eps=eps, momentum=momentum)
        self.group_weight = nn.Parameter(torch.ones(self.num_groups))
        self.group_bias = nn.Parameter(torch.zeros(self.num_groups))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized `x`; raises `ValueError` where a group has a single value."""
        require_several_values("bcn", x[0].numel() // self.num_groups, x)
        grouped = group_channels(self.batch_norm(widen(x)), self.num_groups)  # (N, G, C/G, H, W)
        variance, mean = torch.var_mean(grouped, dim=(2, 3, 4), correction=0, keepdim=True)
        normalized = (grouped - mean) * torch.rsqrt(variance + self.eps)
        y = torch.addcmul(_per_group(self.group_bias), normalized, _per_group(self.group_weight))
        return like_input(y.flatten(1, 2), x)

    def kernel_spec(self, activation: Activation) -> MomentsSpec | None:
        """Return which kernel computes the layer and the activation."""
        return moments_spec(activation, formula="batch_group", groups=self.num_groups, eps=self.eps)

    def kernel_arguments(self) -> dict[str, Any]:
        """Return the arguments of `kernels.norm_act` beside input and spec."""
        return {
            "weight": self.batch_norm.weight,
            "bias": self.batch_norm.bias,
            "extra": self.group_weight,
            "extra2": self.group_bias,
            "running_mean": self.batch_norm.running_mean,
            "running_var": self.batch_norm.running_var,
            "num_batches_tracked": self.batch_norm.num_batches_tracked,
            "momentum": self.batch_norm.momentum,
            "use_running": not self.training,
        }

    def extra_repr(self) -> str:
        """Return what `print(model)` shows in the layer's parentheses."""
        return f"eps={self.eps}, num_groups={self.num_groups}"


def _per_group(values: torch.Tensor) -> torch.Tensor:
    """View ``(G,)`` as ``(G, 1, 1, 1)``, which broadcasts against ``(N, G, C/G, H, W)``."""
    return values[:, None, None, None]
