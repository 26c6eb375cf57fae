"""The training step of a classifier with few launches: batch, loss and optimizer are one kernel each.

In bf16 the convolutions and linear layers read bf16 copies of the fp32 master weights, which the optimizer's kernel
writes: what autocast would compute by casting every weight and every gradient in every step, bit for bit. Weights that
are standardized are so for all layers in one launch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from normbench.engine.device import autocast
from normbench.engine.flat_optimizer import FlatOptimizer
from normbench.engine.standardized_weights import standardized_weights
from normbench.engine.step.base import TrainStep
from normbench.engine.step.objective import CrossEntropy
from normbench.kernels.train_step import assemble, cross_entropy
from normbench.layers.conv2d import Conv2d
from normbench.layers.pooled_linear import PooledLinear


@dataclass(eq=False)
class FusedStep(TrainStep):
    """Computes what `EagerStep` computes of cross-entropy; needs kernels (`normbench.kernels.support`)."""

    optimizer: FlatOptimizer
    objective: CrossEntropy

    def __post_init__(self) -> None:
        super().__post_init__()
        parameters = dict(self.model.named_parameters())
        self._leaves: dict[str, Tensor] = dict(parameters)
        if self.settings.precision == "bf16":
            for name in autocast_parameters(self.model):
                self._leaves[name] = self.optimizer.bf16_copy(parameters[name])
        dtype = torch.bfloat16 if self.settings.precision == "bf16" else torch.float32
        self.standardized = standardized_weights(self.model, dtype)
        for weights in self.standardized:
            self._leaves |= weights.leaves

    def run(self, batch_size: int) -> None:
        """Train on the next `batch_size` images of the epoch, and count the step."""
        self._before_step()
        images, labels = self.assemble(batch_size, self.state.order.device)
        self.optimizer.zero_grad()
        for weights in self.standardized:
            weights.compute()
        with autocast(self.settings.device, self.settings.precision):
            logits = functional_call(self.model, self._leaves, (images,))
        _backward(logits, self.loss_gradient(logits.detach(), labels))
        for weights in self.standardized:
            weights.backward()
        self.optimizer.step()  # which takes the rate from the schedule itself
        self._after_step()

    def assemble(self, batch_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the next batch: images, ``(batch_size, C, H, W)``, channels_last, and labels."""
        state, images = self.state, self.images
        _, channels, height, width = images.images.shape
        batch = torch.empty((batch_size, height, width, channels), device=device)
        labels = images.labels.new_empty(batch_size, device=device)
        assemble(
            images.images.permute(0, 2, 3, 1), images.labels, state.order, state.step_in_epoch, state.crop_flip,
            batch, labels, self.settings.batch_size,
        )  # fmt: skip
        return batch.permute(0, 3, 1, 2), labels

    def loss_gradient(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the gradient of the loss, record loss and accuracy, and count the step."""
        state = self.state
        return cross_entropy(
            logits, labels, self.objective.label_smoothing,
            state.losses, state.num_correct, state.step_in_epoch, state.global_step, self.settings.batch_size,
        )  # fmt: skip

    def refresh(self) -> None:
        """Take over weights that something else has changed."""
        self.optimizer.refresh()

    def finish_capture(self) -> None:
        """Make the graph whose capture has just ended ready to be replayed."""
        self.optimizer.finish_capture()
        for weights in self.standardized:
            weights.finish_capture()


def _backward(logits: Tensor, gradient: Tensor) -> None:
    """Run the backward pass of `logits` without importing sympy.

    ``logits.backward(gradient)`` imports it to compare two shapes, which takes over a second. (A scalar loss, whose
    gradient torch makes itself, costs a launch per step: 1 %.)
    """
    engine = torch.autograd.Variable._execution_engine
    keep_graph = create_graph = False
    inputs: tuple[Tensor, ...] = ()
    engine.run_backward(
        (logits,), (gradient,), keep_graph, create_graph, inputs, allow_unreachable=True, accumulate_grad=True
    )


def autocast_parameters(model: nn.Module) -> list[str]:
    """Return the names of the parameters that autocast would cast: those of plain convolutions and linear layers.

    Subclasses (weight standardization) compute with their weights in float32 first (`standardized_weights`).
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    plain = (nn.Conv2d, Conv2d, nn.Linear, PooledLinear)
    layers = [module for module in model.modules() if type(module) in plain]
    return [names[id(parameter)] for layer in layers for parameter in layer.parameters(recurse=False)]
