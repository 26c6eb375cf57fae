"""What a training step reads and advances on the device, and its settings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normbench.engine.augment import CropFlip
from normbench.engine.device import DeviceName, Engine, Precision
from normbench.layers.hooks import modules_with_hooks


@dataclass(frozen=True)
class StepSettings:
    """What a step needs to know beside model, optimizer and images."""

    batch_size: int
    learning_rates: Tensor
    """Of every step of the whole training, ``(total steps,)``."""
    label_smoothing: float
    augment: bool
    device: DeviceName
    precision: Precision
    engine: Engine


class StepState:
    """Device tensors that steps share, in place: the host never waits between steps, and a graph can replay them."""

    def __init__(self, num_images: int, steps_per_epoch: int, settings: StepSettings, device: torch.device) -> None:
        self.order = torch.arange(num_images, device=device)
        no_shift = torch.zeros_like(self.order)
        self.crop_flip = CropFlip(no_shift, no_shift.clone(), no_shift.bool()) if settings.augment else None
        self.learning_rates = settings.learning_rates.to(device)
        self.step_in_epoch = torch.zeros((), dtype=torch.int64, device=device)
        self.global_step = torch.zeros((), dtype=torch.int64, device=device)
        self.losses = torch.zeros(steps_per_epoch, device=device)
        self.num_correct = torch.zeros((), dtype=torch.int64, device=device)

    def start_epoch(
        self, order: Tensor, crop_flip: CropFlip | None, *, global_step: int, step_in_epoch: int, num_correct: int
    ) -> None:
        """Take the epoch's image order ``(num_images,)`` and augmentation, and set the counters."""
        self.order.copy_(order, non_blocking=True)
        if self.crop_flip is not None and crop_flip is not None:
            for static, drawn in zip(self.crop_flip, crop_flip, strict=True):
                static.copy_(drawn, non_blocking=True)
        self.step_in_epoch.fill_(step_in_epoch)
        self.global_step.fill_(global_step)
        self.num_correct.fill_(num_correct)

    def rewind(self) -> None:
        """Go back to the first step."""
        self.step_in_epoch.zero_()
        self.global_step.zero_()


class AwareLayers:
    """The layers of a model that follow training (see `normbench.layers.hooks`)."""

    def __init__(self, model: nn.Module, state: StepState) -> None:
        self._layers = modules_with_hooks(model)
        self._state = state

    def before_step(self) -> None:
        """Tell them how far training is."""
        if self._layers:
            progress = self._state.global_step / len(self._state.learning_rates)
            for layer in self._layers:
                layer.before_step(progress)

    @torch.no_grad()
    def after_step(self) -> None:
        """Let them correct their parameters."""
        for layer in self._layers:
            layer.after_step()
