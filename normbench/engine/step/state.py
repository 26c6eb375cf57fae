"""The settings of a training step, and the device tensors that it reads and advances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from normbench.engine.augment import CropFlip
from normbench.engine.device import DeviceName, Engine, Precision


@dataclass(frozen=True)
class StepSettings:
    """Everything a step needs to know beside model, optimizer, objective and images."""

    batch_size: int
    num_images: int
    """Images of an epoch; an image may come more than once."""
    num_epochs: int
    learning_rates: Tensor | None
    """The rate of every step of the whole training, ``(num_steps,)``; None where the optimizer's rate never changes."""
    augment: bool
    device: DeviceName
    precision: Precision
    engine: Engine
    micro_batch: int | None = None
    """Images that are trained on at once, where a batch is trained on in parts."""
    sync_statistics: bool = False
    """Whether BN takes the statistics of the whole batch all the same."""

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches of an epoch, a smaller last one included."""
        return -(-self.num_images // self.batch_size)

    @property
    def num_steps(self) -> int:
        """The number of steps of the whole training."""
        return self.num_epochs * self.steps_per_epoch


class StepState:
    """Device tensors that steps change in place: the host never waits between steps, and a graph can replay them."""

    def __init__(self, settings: StepSettings, num_losses: int, device: torch.device) -> None:
        self.order = torch.zeros(settings.num_images, dtype=torch.int64, device=device)
        """Which image each place of the epoch has."""
        no_shift = torch.zeros_like(self.order)
        self.crop_flip = CropFlip(no_shift, no_shift.clone(), no_shift.bool()) if settings.augment else None
        rates = settings.learning_rates
        self.learning_rates = None if rates is None else rates.to(device)
        self.step_in_epoch = torch.zeros((), dtype=torch.int64, device=device)
        self.global_step = torch.zeros((), dtype=torch.int64, device=device)
        self.losses = torch.zeros(settings.steps_per_epoch, num_losses, device=device)
        """The losses of the epoch's steps, in the columns of the objective."""
        self.num_correct = torch.zeros((), dtype=torch.int64, device=device)

    def start_epoch(
        self,
        order: Tensor,
        crop_flip: CropFlip | None,
        *,
        global_step: int,
        step_in_epoch: int = 0,
        num_correct: int = 0,
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
