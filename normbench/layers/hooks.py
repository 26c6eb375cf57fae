"""What a layer may ask of the training loop.

The loop calls these for every `TrainingAware` module of the network, and knows no norm by name.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


class TrainingAware(nn.Module):
    """A module with a schedule, a constraint or learning rates of its own; each is nothing unless overridden.

    `before_step` and `after_step` must be capturable in a CUDA graph: tensor operations in place, no `.item()`.
    """

    def before_step(self, progress: torch.Tensor) -> None:
        """Prepare for a training step.

        `progress` is the fraction of training done, 0 to 1: a 0-dim float32 tensor on the module's device.
        """

    def after_step(self) -> None:
        """Restore what must hold after the optimizer's step, a parameter's range for example."""

    def learning_rate_factors(self) -> Mapping[str, float]:
        """Map names of the module's own parameters to factors of the learning rate; those not named have 1."""
        return {}


def training_aware_modules(network: nn.Module) -> tuple[TrainingAware, ...]:
    """Return the modules of `network` that the training loop has to call."""
    return tuple(module for module in network.modules() if isinstance(module, TrainingAware))


def learning_rate_factors(network: nn.Module) -> Mapping[str, float]:
    """Map the full names of the parameters of `network` whose learning rate is scaled to their factors."""
    return {
        f"{prefix}.{name}" if prefix else name: factor
        for prefix, module in network.named_modules()
        if isinstance(module, TrainingAware)
        for name, factor in module.learning_rate_factors().items()
    }
