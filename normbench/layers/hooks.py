"""The hooks by which a layer takes part in training: before and after a step, and in its learning rates.

The training loop calls them for every `TrainingHooks` module of the network, and knows no norm by name.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


class TrainingHooks(nn.Module):
    """A module with a schedule, a constraint or learning rates of its own; the hooks do nothing unless overridden.

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


def modules_with_hooks(network: nn.Module) -> tuple[TrainingHooks, ...]:
    """Return the modules of `network` whose hooks the training loop has to call."""
    return tuple(module for module in network.modules() if isinstance(module, TrainingHooks))


def learning_rate_factors(network: nn.Module) -> Mapping[str, float]:
    """Map the full names of the parameters of `network` whose learning rate is scaled to their factors."""
    return {
        f"{prefix}.{name}" if prefix else name: factor
        for prefix, module in network.named_modules()
        if isinstance(module, TrainingHooks)
        for name, factor in module.learning_rate_factors().items()
    }
