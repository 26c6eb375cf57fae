"""Global Response Normalization: channels compete for their image's energy."""

from __future__ import annotations

import torch
from torch import nn

from normbench.layers.precision import like_input, widen
from normbench.norms.base import per_channel


class GlobalResponseNorm(nn.Module):
    """Global Response Normalization (Woo et al. 2023, arXiv 2301.00808): ``y = scale * x * n + shift + x``.

    With the energy ``g = sqrt(sum over (H, W) of x^2)`` of each channel of an image, ``n = g / (mean over C of g +
    eps)``. Scale and shift are per channel and 0 at first, so that the layer starts as the identity. ConvNeXt V2 has
    it behind the GELU of each block and a LayerNorm beside it; here it stands alone in the place of the norm.
    """

    def __init__(self, num_channels: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` plus its rescaled and shifted self."""
        wide = widen(x)
        # vector_norm of zeros has the gradient 0, where that of a square root would be infinite.
        energy = torch.linalg.vector_norm(wide, dim=(2, 3), keepdim=True)  # (N, C, 1, 1)
        relative = energy / (energy.mean(dim=1, keepdim=True) + self.eps)
        scale = torch.addcmul(torch.ones_like(relative), relative, per_channel(self.weight))
        return like_input(torch.addcmul(per_channel(self.bias), wide, scale), x)

    def extra_repr(self) -> str:
        """Return what `print(model)` shows in the layer's parentheses."""
        return f"{self.num_channels}, eps={self.eps}"
