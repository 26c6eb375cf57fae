"""One training step with as few launches as the network allows: batch, loss and optimizer are one kernel each.

In bf16 the convolutions and linear layers read working copies of their weights, which the optimizer's kernel writes:
what autocast would compute by casting every weight and every gradient in every step, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from normbench.engine.batches import DeviceImages
from normbench.engine.device import autocast
from normbench.engine.flat_optimizer import FlatOptimizer
from normbench.engine.step.state import AwareLayers, StepSettings, StepState
from normbench.kernels.launch import Jobs
from normbench.layers.conv2d import Conv2d
from normbench.layers.pooled_linear import PooledLinear


class FusedStep:
    """Computes what `PlainStep` computes; needs kernels (`normbench.kernels.support`)."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: FlatOptimizer,
        images: DeviceImages,
        settings: StepSettings,
        state: StepState,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._images = images
        self._settings = settings
        self._state = state
        self._aware = AwareLayers(model, state)
        parameters = dict(model.named_parameters())
        self._leaves: dict[str, Tensor] = dict(parameters)
        if settings.precision == "bf16":
            for name in working_parameters(model):
                self._leaves[name] = optimizer.working(parameters[name])

    def run(self, batch_size: int) -> None:
        """Train on the next `batch_size` images of the epoch, and count the step."""
        self._aware.before_step()
        batch, labels = self._assemble(batch_size, self._images.labels.device)
        self._optimizer.zero_grad()
        with autocast(self._settings.device, self._settings.precision):
            logits = functional_call(self._model, self._leaves, (batch,))
        _backward(logits, self._loss_gradient(logits.detach(), labels))
        self._optimizer.step()
        self._aware.after_step()

    def kernel_jobs(self, batch_sizes: Sequence[int], logits: Tensor) -> Jobs:
        """Return what launches this step's own kernels, for `launch.compile_all`; the network gives such `logits`."""
        settings = self._settings

        def batch_and_loss() -> None:
            for size in batch_sizes:
                _, labels = self._assemble(size, torch.device("cpu"))
                self._loss_gradient(logits.new_empty((size, *logits.shape[1:]), device="cpu"), labels)

        facts = (self._images.images.shape[1:], settings.augment, *logits.shape[1:], logits.dtype, *batch_sizes)
        return {("batch and loss", *facts): batch_and_loss, ("update", self._optimizer.name): self._optimizer.update}

    def _assemble(self, batch_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the next batch: images, ``(batch_size, C, H, W)``, channels_last, and labels."""
        from normbench.kernels.train_step import assemble

        state, images = self._state, self._images
        _, channels, height, width = images.images.shape
        batch = torch.empty((batch_size, height, width, channels), device=device)
        labels = images.labels.new_empty(batch_size, device=device)
        assemble(
            images.images.permute(0, 2, 3, 1), images.labels, state.order, state.step_in_epoch, state.crop_flip,
            batch, labels, self._settings.batch_size,
        )  # fmt: skip
        return batch.permute(0, 3, 1, 2), labels

    def _loss_gradient(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the gradient of the loss, record loss and accuracy, and count the step."""
        from normbench.kernels.train_step import cross_entropy

        settings, state = self._settings, self._state
        return cross_entropy(
            logits, labels, settings.label_smoothing,
            state.losses, state.num_correct, state.step_in_epoch, state.global_step, settings.batch_size,
        )  # fmt: skip

    def refresh(self) -> None:
        """Take over weights that something else has changed."""
        self._optimizer.refresh()

    def finish_capture(self) -> None:
        """Make the graph whose capture has just ended ready to be replayed."""
        self._optimizer.finish_capture()


def _backward(logits: Tensor, gradient: Tensor) -> None:
    """Do what ``logits.backward(gradient)`` does once it has imported sympy, to compare two shapes, for over a second.

    (A scalar loss, whose gradient torch makes itself, costs a launch a step: 1 %.)
    """
    engine = torch.autograd.Variable._execution_engine
    keep_graph = create_graph = False
    inputs: tuple[Tensor, ...] = ()
    engine.run_backward(
        (logits,), (gradient,), keep_graph, create_graph, inputs, allow_unreachable=True, accumulate_grad=True
    )


def working_parameters(model: nn.Module) -> list[str]:
    """Return the names of the parameters that autocast would cast: those of plain convolutions and linear layers.

    Subclasses (weight standardization) compute with their weights in float32 first.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    plain = (nn.Conv2d, Conv2d, nn.Linear, PooledLinear)
    layers = [module for module in model.modules() if type(module) in plain]
    return [names[id(parameter)] for layer in layers for parameter in layer.parameters(recurse=False)]
