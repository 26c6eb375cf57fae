"""Norms whose statistics run over the batch: `(N, H, W)` for each channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from normbench.kernels.spec import Activation, MomentsSpec, NormActSpec
from normbench.layers.precision import like_input, require_several_values, widen
from normbench.norms.base import AffineNorm, bessel, moments_spec, per_channel


class BatchNorm(nn.BatchNorm2d):
    """Batch Normalization (Ioffe & Szegedy 2015, arXiv 1502.03167): torch's layer, with a kernel.

    ``y = (x - mean) / sqrt(var + eps) * scale + shift`` with the mean and biased variance over (N, H, W) in training,
    and their running averages (of the unbiased variance) in evaluation; without `track_running_stats`, with those of
    the batch in evaluation too.
    """

    def __init__(
        self,
        num_channels: int,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__(num_channels, eps, momentum, affine, track_running_stats)

    def kernel_spec(self, activation: Activation) -> NormActSpec | None:
        """Return which kernel computes the layer and the activation; none does without a momentum."""
        if self.momentum is None:
            return None
        return NormActSpec(scope="batch", activation=activation, eps=self.eps)

    def kernel_arguments(self) -> dict[str, Any]:
        """Return the arguments of `kernels.norm_act` beside input and spec."""
        return {
            "weight": self.weight,
            "bias": self.bias,
            "running_mean": self.running_mean,
            "running_var": self.running_var,
            "num_batches_tracked": self.num_batches_tracked,
            "momentum": self.momentum,
            "use_running": not self.training and self.track_running_stats,
        }


class GhostBatchNorm(AffineNorm):
    """Ghost Batch Normalization (Hoffer, Hubara & Soudry 2017, arXiv 1705.08741): BN of each chunk of the batch.

    Chunks are of `norm_batch_size` consecutive samples; a last smaller chunk is normalized by itself. Scale, shift and
    running averages are shared; the averages are updated by one chunk after the other, as in the paper's algorithm.
    Evaluation is that of BN.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(
        self,
        num_channels: int,
        *,
        norm_batch_size: int = 32,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
    ) -> None:
        super().__init__(num_channels, eps=eps, affine=affine)
        self.norm_batch_size = norm_batch_size
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized `x`; raises `ValueError` in training where a chunk has one value per channel."""
        if not self.training:
            return self.normalize(x, per_channel(self.running_mean), per_channel(self.running_var))
        num_whole = len(x) // self.norm_batch_size
        whole, rest = x.tensor_split((num_whole * self.norm_batch_size,))
        if num_whole == 0:
            return self._normalize_chunks(rest, 1)
        if len(rest) == 0:
            return self._normalize_chunks(whole, num_whole)
        y = torch.cat((self._normalize_chunks(whole, num_whole), self._normalize_chunks(rest, 1)))
        return like_input(y, x)

    def _normalize_chunks(self, x: torch.Tensor, num_chunks: int) -> torch.Tensor:
        """Normalize `x` in equal chunks of consecutive samples, all at once."""
        chunks = x.unflatten(0, (num_chunks, -1))  # (K, N/K, C, H, W)
        num_values = x.numel() // (num_chunks * self.num_channels)
        require_several_values("ghost_bn", num_values, x)
        variance, mean = torch.var_mean(widen(chunks), dim=(1, 3, 4), correction=0, keepdim=True)  # (K, 1, C, 1, 1)
        self._update_averages(self.running_mean, mean)
        self._update_averages(self.running_var, variance * bessel(num_values))
        return like_input(self.normalize(chunks, mean, variance).flatten(0, 1), x)

    def _update_averages(self, average: torch.Tensor, chunk_values: torch.Tensor) -> None:
        """Update by each chunk's value in turn, written as one weighted sum: the last chunk weighs most."""
        values = chunk_values.detach().flatten(1).to(average.dtype)  # (K, C)
        newer_chunks = torch.arange(len(values) - 1, -1, -1, device=values.device, dtype=values.dtype)
        shares = self.momentum * (1 - self.momentum) ** newer_chunks  # (K,)
        average.mul_((1 - self.momentum) ** len(values)).add_((shares[:, None] * values).sum(0))

    def kernel_spec(self, activation: Activation) -> MomentsSpec | None:
        """Return which kernel computes the layer and the activation."""
        return moments_spec(activation, formula="batch_instance", eps=self.eps, sub_batch=self.norm_batch_size)

    def kernel_arguments(self) -> dict[str, Any]:
        """Return the arguments of `kernels.norm_act` beside input and spec."""
        return {
            **super().kernel_arguments(),
            "running_mean": self.running_mean,
            "running_var": self.running_var,
            "momentum": self.momentum,
            "use_running": not self.training,
        }

    def extra_repr(self) -> str:
        """Return what `print(model)` shows in the layer's parentheses."""
        return f"{super().extra_repr()}, norm_batch_size={self.norm_batch_size}"


class FrozenBatchNorm(nn.Module):
    """Batch Normalization with fixed statistics, scale and shift: four buffers ``(C,)``, nothing learned.

    It is meant for a trained BN, whose `state_dict` loads here; fresh, it only divides by ``sqrt(1 + eps)``. As in
    detection fine-tuning (the FrozenBatchNorm2d of torchvision and detectron2). BN: arXiv 1502.03167.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, num_channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_channels))
        self.register_buffer("bias", torch.zeros(num_channels))
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(x - running_mean) / sqrt(running_var + eps) * weight + bias`` in training and evaluation."""
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        centered = x - per_channel(self.running_mean)
        return like_input(torch.addcmul(per_channel(self.bias), centered, per_channel(scale)), x)

    def kernel_spec(self, activation: Activation) -> MomentsSpec | None:
        """Return which kernel computes the layer and the activation."""
        return moments_spec(activation, formula="batch_instance", eps=self.eps)

    def kernel_arguments(self) -> dict[str, Any]:
        """Return the arguments of `kernels.norm_act` beside input and spec."""
        names = ("weight", "bias", "running_mean", "running_var")
        return {**{name: getattr(self, name) for name in names}, "use_running": True}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(f"{prefix}num_batches_tracked", None)  # BatchNorm2d's counter, of no use here
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Return what `print(model)` shows in the layer's parentheses."""
        return f"{self.num_channels}, eps={self.eps}"
