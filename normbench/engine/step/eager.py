"""One training step in torch's own operations: every device, every engine but the captured one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from normbench.engine.augment import apply_crop_flip
from normbench.engine.batches import DeviceImages, normalize
from normbench.engine.device import autocast
from normbench.engine.optimizer import Optimizer
from normbench.engine.step.state import AwareLayers, StepSettings, StepState


class PlainStep:
    """Computes a step on the state's tensors alone, so that it can be captured as well."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
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
        self._offsets = torch.arange(settings.batch_size, device=images.labels.device)
        self._forward: Callable[[torch.Tensor], torch.Tensor] = model
        if settings.engine == "compile":
            self._forward = torch.compile(model)

    def run(self, batch_size: int) -> None:
        """Train on the next `batch_size` images of the epoch, and count the step."""
        settings, state = self._settings, self._state
        self._aware.before_step()
        rate = state.learning_rates.index_select(0, state.global_step.view(1)).squeeze()  # [...] would ask the host
        for group in self._optimizer.param_groups:
            group["lr"].copy_(rate * group["learning_rate_factor"])

        positions = state.step_in_epoch * settings.batch_size + self._offsets[:batch_size]
        indices = state.order[positions]
        images, labels = self._images.batch(indices)  # (B, 3, 32, 32) uint8, (B,)
        if state.crop_flip is not None:
            dx, dy, flip = (drawn[indices] for drawn in state.crop_flip)
            images = apply_crop_flip(images, dy, dx, flip)

        self._optimizer.zero_grad(set_to_none=True)
        # The short last batch is not worth a compilation of its own.
        forward = self._forward if batch_size == settings.batch_size else self._model
        with autocast(settings.device, settings.precision):
            logits = forward(normalize(images))
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)
        loss.backward()
        self._optimizer.step()
        self._aware.after_step()
        with torch.no_grad():
            state.losses.index_copy_(0, state.step_in_epoch.view(1), loss.detach().view(1))
            state.num_correct += (logits.argmax(dim=1) == labels).sum()
            state.step_in_epoch += 1
            state.global_step += 1

    def refresh(self) -> None:
        """Nothing is kept beside the model."""

    def finish_capture(self) -> None:
        """Nothing is: the graph has all that it reads."""
