"""A moment of training as probes see it: a copy of the network, the next batch, and the loss as a function."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from normbench.engine.augment import apply_crop_flip
from normbench.engine.batches import normalize
from normbench.engine.step.base import TrainStep
from normbench.engine.step.objective import Objective

Weights = Sequence[Tensor]
"""Values of all parameters, in the order of `Moment.parameters`."""


@dataclass(frozen=True)
class Moment:
    """Training before one of its steps. Nothing here is shared with what trains: probes may change all of it."""

    step: int
    """Training steps done."""
    learning_rate: float
    """The scheduled rate of the step."""
    model: nn.Module
    """A copy of the network, in training mode, with the float32 weights that the optimizer updates."""
    objective: Objective
    images: Tensor
    """The step's batch as the network takes it, ``(N, C, H, W)`` in [-1, 1], augmented as the step's is."""
    labels: Tensor
    """``(N,)``"""
    micro_batch: int | None = None
    """The images that the network sees at once, and norms take statistics of; all of the batch where None."""

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """The parameters that are trained, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def loss(self, weights: Weights) -> Tensor:
        """Return the loss that the step minimizes, a scalar, at `weights` in place of the network's own.

        Statistics are those of the batch, or of each of its parts, as in training. Each call starts from the buffers as
        they are now, so that it does not matter which comes first.
        """
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        state = {**dict(zip(self.parameters, weights, strict=True)), **buffers}
        size = self.micro_batch or len(self.labels)
        losses = []
        for images, labels in zip(self.images.split(size), self.labels.split(size), strict=True):
            outputs = self.objective.forward(lambda x: functional_call(self.model, state, (x,)), images)
            losses.append(len(labels) / len(self.labels) * self.objective.outcome(outputs, labels).losses[0])
        return torch.stack(losses).sum()

    def value_and_gradient(self, weights: Weights) -> tuple[Tensor, list[Tensor]]:
        """Return the loss at `weights` and its gradient, zeros for a weight that it does not depend on."""
        leaves = [weight.detach().requires_grad_() for weight in weights]
        loss = self.loss(leaves)
        gradient = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        return loss.detach(), list(gradient)


def moment_of(train_step: TrainStep, step: int, step_in_epoch: int, learning_rate: float) -> Moment:
    """Return the moment before a step: `step` from the start of training, `step_in_epoch` of its epoch, which began.

    Network and images are contiguous, for which cuDNN's float32 convolutions are made, and in which no path of our own
    convolves on a CPU: it could not be differentiated twice.
    """
    start = step_in_epoch * train_step.settings.batch_size
    indices = train_step.state.order[start : start + train_step.batch_size_of(step_in_epoch)]
    images, labels = train_step.images.batch(indices)
    if train_step.state.crop_flip is not None:
        dx, dy, flip = (drawn[indices] for drawn in train_step.state.crop_flip)
        images = apply_crop_flip(images, dy, dx, flip)
    model = copy.deepcopy(train_step.model).train().to(memory_format=torch.contiguous_format)
    settings = train_step.settings
    part = None if settings.sync_statistics else settings.micro_batch
    batch = normalize(images.contiguous())
    return Moment(step, learning_rate, model, train_step.objective, batch, labels, part)


def norm_of(tensors: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of all numbers in `tensors` together, a scalar."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))
    return norm


def dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Return the inner product of all numbers of two lists of tensors, a scalar."""
    return torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()
