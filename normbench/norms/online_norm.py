"""Online Normalization: one sample after the other, each by the statistics of those before it."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from normbench.layers.precision import like_input, widen, without_autocast
from normbench.norms.base import AffineNorm, per_channel


class _NormalizeStream(torch.autograd.Function):
    """``y = (x - mean) / deviation`` with the statistics of earlier samples; backward by the layer's two controls."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor, layer: OnlineNorm
    ) -> torch.Tensor:
        ctx.save_for_backward(x, mean, deviation)  # not the result, which an activation in place overwrites
        ctx.layer = layer
        return (x - mean) / deviation

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        x, mean, deviation = ctx.saved_tensors
        y = (x - mean) / deviation
        layer: OnlineNorm = ctx.layer
        share = 1 - layer.backward_decay
        # Means over (H, W) are taken once; the recursion over samples then runs on (C,) values alone.
        along = (gradient * y).mean(dim=(2, 3))
        square = y.square().mean(dim=(2, 3))
        first, second = gradient.mean(dim=(2, 3)), y.mean(dim=(2, 3))
        along_error, mean_error = layer.along_error.to(y.dtype), layer.mean_error.to(y.dtype)
        along_errors, mean_errors = [], []
        for sample in range(len(y)):
            along_errors.append(along_error)
            mean_errors.append(mean_error)
            corrected_mean = (first[sample] - share * along_error * second[sample]) / deviation[sample, :, 0, 0]
            mean_error = mean_error + (corrected_mean - share * mean_error)
            along_error = along_error + (along[sample] - share * along_error * square[sample])
        projected = gradient - share * torch.stack(along_errors)[:, :, None, None] * y
        corrected = projected / deviation - share * torch.stack(mean_errors)[:, :, None, None]
        layer.along_error.copy_(along_error)  # last: the first of the errors is the buffer itself
        layer.mean_error.copy_(mean_error)
        return corrected, None, None, None


class OnlineNorm(AffineNorm):
    """Online Normalization (Chiley et al. 2019, arXiv 1905.05894), in training as in use one sample at a time.

    Sample t of a channel becomes ``(x - mean_{t-1}) / sqrt(var_{t-1} + eps)`` with running averages (of `decay`) of the
    mean and variance over (H, W) of the samples before it, in this batch and in all others; then scale and shift; then
    *layer scaling*: division by the root mean square over (C, H, W). The gradient is not that of this formula. As in
    the paper two controls keep it, on average over samples, orthogonal to the normalized x and of mean 0:
    ``g' = g - (1 - b) u y``, ``u += mean(g' y)``, ``g'' = g' / deviation - (1 - b) v``, ``v += mean(g'')`` with
    `backward_decay` b. Statistics and controls live in buffers ``(C,)``.

    The order of the samples counts, so that no two batch orders give the same result.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    along_error: torch.Tensor
    mean_error: torch.Tensor

    def __init__(
        self,
        num_channels: int,
        *,
        decay: float = 0.999,
        backward_decay: float = 0.99,
        layer_scaling: bool = True,
        eps: float = 1e-5,
        affine: bool = True,
    ) -> None:
        super().__init__(num_channels, eps=eps, affine=affine)
        self.decay, self.backward_decay, self.layer_scaling = decay, backward_decay, layer_scaling
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))
        self.register_buffer("along_error", torch.zeros(num_channels))
        self.register_buffer("mean_error", torch.zeros(num_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized `x`."""
        wide = widen(x)
        if self.training:
            mean, variance = self._advance(wide)
            y: torch.Tensor = _NormalizeStream.apply(wide, mean, torch.sqrt(variance + self.eps), self)
            y = self.rescale(y)
        else:
            mean, variance = per_channel(self.running_mean), per_channel(self.running_var)
            y = self.rescale((wide - mean) * torch.rsqrt(variance + self.eps))
        if self.layer_scaling:
            y = y * torch.rsqrt(y.square().mean(dim=(1, 2, 3), keepdim=True) + self.eps)
        return like_input(y, x)

    @torch.no_grad()
    def _advance(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each sample's mean and variance, ``(N, C, 1, 1)``, those of the samples before it; move the averages.

        Both averages are linear in their past, so that a triangular matrix of powers of the decay does all samples at
        once.
        """
        variance, mean = torch.var_mean(x, dim=(2, 3), correction=0)  # (N, C)
        powers = torch.arange(len(x) + 1, device=x.device, dtype=x.dtype)
        ages = powers[:, None] - powers[1:]  # of sample s (column) when sample t (row) is normalized
        shares = (1 - self.decay) * (self.decay ** ages.clamp(min=0)).tril(-1)
        kept = (self.decay**powers)[:, None]
        with without_autocast(x):
            means = kept * self.running_mean.to(x.dtype) + shares @ mean
            spread = variance + self.decay * (mean - means[:-1]).square()
            variances = kept * self.running_var.to(x.dtype) + shares @ spread
        self.running_mean.copy_(means[-1])
        self.running_var.copy_(variances[-1])
        return means[:-1, :, None, None], variances[:-1, :, None, None]

    def extra_repr(self) -> str:
        """Return what `print(model)` shows in the layer's parentheses."""
        return f"{super().extra_repr()}, decay={self.decay}, backward_decay={self.backward_decay}"
