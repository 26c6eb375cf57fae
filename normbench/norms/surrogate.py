"""Division by a deviation whose gradient a norm defines by itself, not as the derivative of what it computes."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch.autograd.function import once_differentiable


class CorrectsGradient(Protocol):
    """A norm that changes the gradient of its normalized values by what it remembers of earlier ones."""

    def correct_gradient(self, gradient: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the gradient to divide by the deviation, given that of `y`; called once for each backward pass."""


class DivideByRoot(torch.autograd.Function):
    """``y = x / root``, whose gradient is what `layer` makes of that of y, divided by `root`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, root: torch.Tensor, layer: CorrectsGradient) -> torch.Tensor:
        """Return the quotient; `root` broadcasts against `x` and is constant to the gradient."""
        ctx.save_for_backward(x, root)  # not the result, which an activation in place overwrites
        ctx.layer = layer
        return x / root

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Return the gradient of x."""
        x, root = ctx.saved_tensors
        return ctx.layer.correct_gradient(gradient, x / root) / root, None, None
