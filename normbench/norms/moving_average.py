"""Batch statistics averaged over the last batches, forward and backward, for batches too small for their own."""

from __future__ import annotations

import torch

from normbench.layers.precision import like_input, widen
from normbench.norms.base import AffineNorm, per_channel
from normbench.norms.surrogate import DivideByRoot

MAX_CORRECTION = 5.0
"""The correction r lies between 1 / 5 and 5, as in the authors' code."""


class MovingAverageBatchNorm(AffineNorm):
    """Moving Average Batch Normalization (Yan et al. 2020, arXiv 2001.06838): ``y = x / root * r * scale + shift``.

    ``root = sqrt(average + eps)``, where `average` is the mean over the last `num_batches` batches of the mean square
    of x over (N, H, W); nothing is centered. ``r = root / sqrt(running + eps)``, within [1/5, 5] and constant to the
    gradient, ties it to the running mean square that evaluation divides by. The gradient is not that of this formula:
    in ``(g - y' mean(g y')) / root``, with ``y' = x / root`` and g the gradient of y', ``mean(g y')`` is averaged over
    the last batches too.

    Until `num_batches` and `warmup_steps` are past, both averages are the batch's own; until ten times `warmup_steps`,
    r is 1 (100 and 1,000 steps in the authors' code). The paper also centers the convolution's weights; ``mabn+ws`` has
    that, and a division by their deviation beside it.
    """

    running_mean_square: torch.Tensor
    num_steps: torch.Tensor
    mean_squares: torch.Tensor
    gradient_products: torch.Tensor

    def __init__(
        self,
        num_channels: int,
        *,
        num_batches: int = 16,
        warmup_steps: int = 100,
        eps: float = 1e-5,
        momentum: float = 0.02,
        affine: bool = True,
    ) -> None:
        super().__init__(num_channels, eps=eps, affine=affine)
        self.num_batches, self.warmup_steps, self.momentum = num_batches, warmup_steps, momentum
        self.register_buffer("running_mean_square", torch.ones(num_channels))
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean_squares", torch.zeros(num_batches, num_channels))
        self.register_buffer("gradient_products", torch.zeros(num_batches, num_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized `x`."""
        wide = widen(x)
        running_root = torch.sqrt(self.running_mean_square.to(wide.dtype) + self.eps)
        if not self.training:
            return like_input(self.rescale(wide / per_channel(running_root)), x)
        self.num_steps.add_(1)
        with torch.no_grad():
            mean_square = self.remember(self.mean_squares, wide.square().mean(dim=(0, 2, 3)))
            root = torch.sqrt(mean_square + self.eps)
            correction = (root / running_root).clamp(1 / MAX_CORRECTION, MAX_CORRECTION)
            correction = torch.where(self.num_steps > 10 * self.warmup_steps, correction, 1.0)
            self.running_mean_square.lerp_(mean_square.to(self.running_mean_square.dtype), self.momentum)
        y: torch.Tensor = DivideByRoot.apply(wide, per_channel(root), self)
        return like_input(self.rescale(y * per_channel(correction)), x)

    def correct_gradient(self, gradient: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Take away what lies along `y`, by the average over the last batches of ``mean(gradient * y)``."""
        product = self.remember(self.gradient_products, (gradient * y).mean(dim=(0, 2, 3)))
        return gradient - y * per_channel(product)

    @torch.no_grad()
    def remember(self, memory: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Put `value` ``(C,)`` into `memory` ``(num_batches, C)``; return the average, or `value` while warming up."""
        place = (self.num_steps % self.num_batches).reshape(1)
        memory.index_copy_(0, place, value[None].to(memory.dtype))
        is_warm = (self.num_steps > self.num_batches) & (self.num_steps >= self.warmup_steps)
        return torch.where(is_warm, memory.mean(dim=0).to(value.dtype), value)

    def extra_repr(self) -> str:
        """Return what `print(model)` shows in the layer's parentheses."""
        return f"{super().extra_repr()}, num_batches={self.num_batches}, warmup_steps={self.warmup_steps}"
