"""Local Response Normalization, AlexNet's: each value is damped by the channels beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from normbench.kernels.spec import Activation, WindowSpec
from normbench.layers.precision import like_input, widen


class LocalResponseNorm(nn.Module):
    """Local Response Normalization (Krizhevsky, Sutskever & Hinton 2012).

    ``y = x / (k + alpha / size * sum of squares over `size` neighboring channels) ** beta``, zeros beyond the first and
    last channel. The division of alpha by `size` is PyTorch's convention.
    """

    def __init__(
        self, num_channels: int, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
    ) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` damped by its neighboring channels."""
        return like_input(F.local_response_norm(widen(x), self.size, self.alpha, self.beta, self.k), x)

    def kernel_spec(self, activation: Activation) -> WindowSpec | None:
        """Return which kernel computes the layer and the activation."""
        if activation not in ("none", "relu"):
            return None
        return WindowSpec(size=self.size, alpha=self.alpha, beta=self.beta, k=self.k, activation=activation)

    def kernel_arguments(self) -> dict[str, Any]:
        """Return the arguments of `kernels.norm_act` beside input and spec: none."""
        return {}

    def extra_repr(self) -> str:
        """Return what `print(model)` shows in the layer's parentheses."""
        return f"{self.num_channels}, size={self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
