"""Iterative Normalization: channels are not only standardized but decorrelated."""

from __future__ import annotations

import torch

from normbench.layers.precision import like_input, require_several_values, widen, without_autocast
from normbench.norms.base import AffineNorm, resolve_groups

MAX_GROUP_SIZE = 64
"""Channels of a group, at most, where neither their number nor their size is given; the paper's."""


class IterNorm(AffineNorm):
    """Iterative Normalization (Huang et al. 2019, arXiv 1904.03441): ZCA whitening by Newton's iteration.

    For each group of d channels, with the centered values ``c`` of m = N H W positions: ``S = eps I + c c^T / m``, and
    ``P = I``, then `num_iterations` times ``P = 1.5 P - 0.5 P^3 S / trace(S)``; ``y = P / sqrt(trace(S)) c``, which
    tends to ``S^-1/2 c`` (whitening: Decorrelated BN, arXiv 1804.08450), then scale and shift per channel. Evaluation
    uses running averages of the mean and of the matrix.

    Groups are of `group_size` channels: by default the largest divisor of the channels up to 64, the paper's. The
    matrix needs many more values than d: expect noise where N H W is not well above it. Statistics are in float32.
    """

    running_mean: torch.Tensor
    running_matrix: torch.Tensor

    def __init__(
        self,
        num_channels: int,
        *,
        groups: int | None = None,
        group_size: int | None = None,
        num_iterations: int = 5,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
    ) -> None:
        super().__init__(num_channels, eps=eps, affine=affine)
        fewest = min(
            g for g in range(1, num_channels + 1) if num_channels % g == 0 and num_channels // g <= MAX_GROUP_SIZE
        )
        self.num_groups = resolve_groups("iternorm", num_channels, groups, group_size, default=fewest)
        self.num_iterations = num_iterations
        self.momentum = momentum
        size = num_channels // self.num_groups
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_matrix", torch.eye(size).repeat(self.num_groups, 1, 1))  # (G, d, d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the whitened `x`; raises `ValueError` in training on one value per channel."""
        with without_autocast(x):  # matrix products in bf16 would not converge
            values = widen(x).transpose(0, 1).reshape(self.num_groups, -1, x.numel() // self.num_channels)  # (G, d, m)
            if self.training:
                require_several_values("iternorm", values.shape[2], x)
                mean = values.mean(2, keepdim=True)
                centered = values - mean
                matrix = self._whitening_matrix(centered)
                for running, value in ((self.running_mean, mean.flatten()), (self.running_matrix, matrix)):
                    running.lerp_(value.detach().to(running.dtype), self.momentum)
            else:
                centered, matrix = values - self.running_mean.view_as(values[:, :, :1]), self.running_matrix
            whitened = (matrix @ centered).view(x.shape[1], len(x), *x.shape[2:]).transpose(0, 1)
        return like_input(self.rescale(whitened.contiguous()), x)

    def _whitening_matrix(self, centered: torch.Tensor) -> torch.Tensor:
        """Return about ``S^-1/2`` of each group, ``(G, d, d)``, from its centered values ``(G, d, m)``."""
        identity = torch.eye(centered.shape[1], dtype=centered.dtype, device=centered.device)
        covariance = centered @ centered.transpose(1, 2) / centered.shape[2] + self.eps * identity
        trace = covariance.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
        scaled = covariance / trace
        matrix = identity.expand_as(covariance)
        for _ in range(self.num_iterations):
            matrix = 1.5 * matrix - 0.5 * matrix @ matrix @ matrix @ scaled
        return matrix * torch.rsqrt(trace)

    def extra_repr(self) -> str:
        """Return what `print(model)` shows in the layer's parentheses."""
        return f"{super().extra_repr()}, groups={self.num_groups}, num_iterations={self.num_iterations}"
