"""Batch Renormalization: batch statistics in training, corrected towards the running ones."""

from __future__ import annotations

from typing import Any

import torch

from normbench.errors import ConfigError
from normbench.kernels.spec import Activation, MomentsSpec
from normbench.layers.hooks import TrainingHooks
from normbench.layers.precision import like_input, require_several_values, widen
from normbench.norms.base import AffineNorm, moments_spec, per_channel, update_average


class BatchRenorm(AffineNorm, TrainingHooks):
    """Batch Renormalization (Ioffe 2017, arXiv 1702.03275).

    With ``std = sqrt(var + eps)`` over (N, H, W), in training ``y = ((x - mean) / std * r + d) * scale + shift``, where
    ``r = std / running_std`` within ``[1 / r_limit, r_limit]`` and ``d = (mean - running_mean) / running_std`` within
    ``[-d_limit, d_limit]`` are constants to the gradient. Evaluation uses the running mean and standard deviation.

    The limits follow training: r = 1 and d = 0, which is BN, until the fraction `ramp_start`, then linearly to `r_max`
    at `r_ramp_end` and to `d_max` at `d_ramp_end`. Without a training loop that calls `before_step` it stays BN.
    """

    running_mean: torch.Tensor
    running_std: torch.Tensor
    r_limit: torch.Tensor
    d_limit: torch.Tensor

    def __init__(
        self,
        num_channels: int,
        *,
        r_max: float = 3.0,
        d_max: float = 5.0,
        ramp_start: float = 1 / 16,
        r_ramp_end: float = 1 / 2,
        d_ramp_end: float = 5 / 16,
        eps: float = 1e-3,
        momentum: float = 0.01,
        affine: bool = True,
    ) -> None:
        super().__init__(num_channels, eps=eps, affine=affine)
        if not ramp_start < min(r_ramp_end, d_ramp_end):
            raise ConfigError(
                f"brn: ramp_start={ramp_start} must be below r_ramp_end={r_ramp_end} and d_ramp_end={d_ramp_end}"
            )
        self.r_max, self.d_max = r_max, d_max
        self.ramp_start, self.r_ramp_end, self.d_ramp_end = ramp_start, r_ramp_end, d_ramp_end
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_std", torch.ones(num_channels))
        self.register_buffer("r_limit", torch.ones(()))
        self.register_buffer("d_limit", torch.zeros(()))

    def before_step(self, progress: torch.Tensor) -> None:
        """Set the limits of r and d for this fraction of training."""
        self.r_limit.copy_(1 + (self.r_max - 1) * self._ramp(progress, self.r_ramp_end))
        self.d_limit.copy_(self.d_max * self._ramp(progress, self.d_ramp_end))

    def _ramp(self, progress: torch.Tensor, end: float) -> torch.Tensor:
        return ((progress - self.ramp_start) / (end - self.ramp_start)).clamp(0, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized `x`; raises `ValueError` in training on one value per channel."""
        if self.training:
            require_several_values("brn", x.numel() // self.num_channels, x)
            variance, mean = torch.var_mean(widen(x), dim=(0, 2, 3), correction=0, keepdim=True)  # (1, C, 1, 1)
            std = torch.sqrt(variance + self.eps)
            r, d = self._correction(mean.detach(), std.detach())
            normalized = (x - mean) * (r / std) + d
            update_average(self.running_mean, mean, self.momentum)
            update_average(self.running_std, std, self.momentum)
        else:
            normalized = (x - per_channel(self.running_mean)) / per_channel(self.running_std)
        return like_input(self.rescale(normalized), x)

    def _correction(self, mean: torch.Tensor, std: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return r and d, ``(1, C, 1, 1)``."""
        running_mean, running_std = self.running_mean, self.running_std
        if torch.compiler.is_compiling():  # only there: a custom operator's first call imports torch's compiler
            running_mean, running_std = _snapshot(running_mean), _snapshot(running_std)
        running_mean, running_std = per_channel(running_mean), per_channel(running_std)
        r = torch.clamp(std / running_std, 1 / self.r_limit, self.r_limit)
        d = torch.clamp((mean - running_mean) / running_std, -self.d_limit, self.d_limit)
        return r, d

    def kernel_spec(self, activation: Activation) -> MomentsSpec | None:
        """Return which kernel computes the layer and the activation."""
        return moments_spec(activation, formula="batch_instance", renorm=True, eps=self.eps)

    def kernel_arguments(self) -> dict[str, Any]:
        """Return the arguments of `kernels.norm_act` beside input and spec."""
        return {
            **super().kernel_arguments(),
            "extra": self.r_limit,
            "extra2": self.d_limit,
            "running_mean": self.running_mean,
            "running_var": self.running_std,
            "momentum": self.momentum,
            "use_running": not self.training,
        }

    def extra_repr(self) -> str:
        """Return what `print(model)` shows in the layer's parentheses."""
        return f"{super().extra_repr()}, r_max={self.r_max}, d_max={self.d_max}"


@torch.library.custom_op("normbench::snapshot", mutates_args=())
def _snapshot(values: torch.Tensor) -> torch.Tensor:
    """Copy `values` in a way that torch.compile cannot see into.

    The gradient needs r, which stems from the running statistics before their update. torch.compile may recompute r in
    the backward pass, from the updated ones: gradients were silently wrong by 6e-5 (torch 2.15; pytorch pull request
    197039 describes the cause). It never recomputes a custom operator.
    """
    return values.clone()


@_snapshot.register_fake
def _(values: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(values)
