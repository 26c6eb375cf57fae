"""PowerNorm: batch statistics for transformers, averaged over batches in both directions."""

from __future__ import annotations

import torch
from torch import nn

from normbench.layers.hooks import TrainingHooks
from normbench.layers.precision import widen
from normbench.norms.base import resolve_groups
from normbench.norms.surrogate import DivideByRoot


class PowerNorm(TrainingHooks):
    """PowerNorm (Shen et al. 2020, arXiv 2003.07845), of sequences ``(N, T, D)``: a batch norm that never centers.

    First each token is divided by the root mean square of each of its `groups` of features. Then ``y = x / sqrt(p +
    eps) * scale + shift``, where p, one number per feature, is the running mean square over (N, T) of the batches
    before, of weight `momentum` for the newest; evaluation uses the last. For the first `warmup` of training p is the
    batch's own, while the running one is the plain mean of those so far. The gradient is not that of this formula: in
    ``g' = g - m u y``, with m the `momentum`, the sum u of ``mean(g' y)`` over batches stands for the batch's own.

    As in the paper, and not in its code, which divides the gradient by the batch's own deviation after the warm-up too
    and warms up for 10,000 steps. Padding is not told from tokens.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_power: torch.Tensor
    gradient_product: torch.Tensor
    num_steps: torch.Tensor
    is_warm: torch.Tensor

    def __init__(
        self,
        d_model: int,
        *,
        groups: int = 1,
        warmup: float = 0.1,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
    ) -> None:
        super().__init__()
        self.groups = resolve_groups("power", d_model, groups, None)
        self.warmup, self.eps, self.momentum = warmup, eps, momentum
        self.register_parameter("weight", nn.Parameter(torch.ones(d_model)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(d_model)) if affine else None)
        self.register_buffer("running_power", torch.ones(d_model))
        self.register_buffer("gradient_product", torch.zeros(d_model))
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("is_warm", torch.zeros((), dtype=torch.bool))

    def before_step(self, progress: torch.Tensor) -> None:
        """Note whether the warm-up is over."""
        self.is_warm.copy_(progress >= self.warmup)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized `x`."""
        grouped = widen(x).unflatten(-1, (self.groups, -1))
        scaled = (grouped * torch.rsqrt(grouped.square().mean(-1, keepdim=True) + self.eps)).flatten(-2)
        power = self._advance(scaled) if self.training else self.running_power.to(scaled.dtype)
        y: torch.Tensor = DivideByRoot.apply(scaled, torch.sqrt(power + self.eps), self)
        if self.weight is not None and self.bias is not None:
            y = torch.addcmul(self.bias, y, self.weight)
        return y.to(x.dtype)

    def correct_gradient(self, gradient: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Take away what lies along `y`, by what was left of it in the batches before."""
        projected = gradient - self.momentum * self.gradient_product.to(y.dtype) * y
        self.gradient_product.add_((projected * y).mean(dim=(0, 1)))
        return projected

    @torch.no_grad()
    def _advance(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mean square to divide by, ``(D,)``, and move the running one."""
        self.num_steps.add_(1)
        own = x.square().mean(dim=(0, 1))
        power = torch.where(self.is_warm, self.running_power.to(own.dtype), own)
        share = torch.where(self.is_warm, self.momentum, 1 / self.num_steps)
        self.running_power.lerp_(own.to(self.running_power.dtype), share.to(self.running_power.dtype))
        return power
