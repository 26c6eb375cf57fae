"""One training step with as few launches as the network allows: batch, loss and optimizer are one kernel each.

In bf16 the convolutions and linear layers read working copies of their weights, which the optimizer's kernel writes:
what autocast would compute by casting every weight and every gradient in every step, bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from normbench.data.batches import DeviceImages
from normbench.engine.device import autocast
from normbench.engine.flat_optimizer import FlatOptimizer
from normbench.engine.step_state import AwareLayers, StepSettings, StepState
from normbench.norms.convolution import Conv2d
from normbench.norms.head import PooledLinear


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
        from normbench.kernels.step import assemble, cross_entropy

        settings, state, images = self._settings, self._state, self._images
        self._aware.before_step()
        _, channels, height, width = images.images.shape
        batch = torch.empty((batch_size, height, width, channels), device=images.labels.device)
        labels = images.labels.new_empty(batch_size)
        assemble(
            images.images.permute(0, 2, 3, 1), images.labels, state.order, state.step_in_epoch, state.crop_flip,
            batch, labels, settings.batch_size,
        )  # fmt: skip

        self._optimizer.zero_grad()
        with autocast(settings.device, settings.precision):
            logits = functional_call(self._model, self._leaves, (batch.permute(0, 3, 1, 2),))
        gradient = cross_entropy(
            logits.detach(), labels, settings.label_smoothing,
            state.losses, state.num_correct, state.step_in_epoch, state.global_step, settings.batch_size,
        )  # fmt: skip
        logits.backward(gradient)
        self._optimizer.step()
        self._aware.after_step()

    def refresh(self) -> None:
        """Take over weights that something else has changed."""
        self._optimizer.refresh()

    def finish_capture(self) -> None:
        """Make the graph whose capture has just ended ready to be replayed."""
        self._optimizer.finish_capture()


def working_parameters(model: nn.Module) -> list[str]:
    """Return the names of the parameters that autocast would cast: those of plain convolutions and linear layers.

    Subclasses (weight standardization) compute with their weights in float32 first.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    plain = (nn.Conv2d, Conv2d, nn.Linear, PooledLinear)
    layers = [module for module in model.modules() if type(module) in plain]
    return [names[id(parameter)] for layer in layers for parameter in layer.parameters(recurse=False)]
