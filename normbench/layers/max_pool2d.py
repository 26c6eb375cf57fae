"""The maximum over 2 x 2 pixels, a kernel of our own on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normbench import kernels


class MaxPool2d(nn.MaxPool2d):
    """``nn.MaxPool2d(2)``, bit for bit: ``(N, C, H, W)`` -> ``(N, C, H // 2, W // 2)``."""

    def __init__(self) -> None:
        super().__init__(2)

    def has_kernel(self, input: Tensor) -> bool:
        """Return whether the kernel computes this layer on `input`."""
        return not torch.compiler.is_compiling() and kernels.can_pool_maxima(input)

    def forward(self, input: Tensor) -> Tensor:
        """Return the maxima."""
        if self.has_kernel(input):
            return kernels.pool_maxima(input)
        y: Tensor = super().forward(input)
        return y
