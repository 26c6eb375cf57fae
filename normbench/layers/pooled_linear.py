"""The classifier at the end of the networks: the mean over positions and a linear layer, one kernel on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normbench import kernels
from normbench.layers.precision import kernel_dtype


class PooledLinear(nn.Linear):
    """The mean over positions, then ``nn.Linear``: ``(N, C, H, W)`` -> ``(N, K)``; a kernel of our own in 16 bits.

    Parameters and keys are those of ``nn.Linear``; results, to rounding, those of both operations in torch.
    """

    def has_kernel(self, input: Tensor, dtype: torch.dtype) -> bool:
        """Return whether the kernel computes this layer, its parameters cast to `dtype`, on `input`."""
        return kernels.can_pool_linear(input, self.weight.shape, dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Return the linear layer's output for the mean over positions."""
        dtype = kernel_dtype(input, self.weight)
        if dtype is not None and self.has_kernel(input, dtype):
            bias = None if self.bias is None else self.bias.to(dtype)
            return kernels.pooled_linear(input, self.weight.to(dtype), bias)
        return super().forward(input.mean(dim=(2, 3)))
