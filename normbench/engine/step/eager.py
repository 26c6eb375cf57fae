"""The training step in torch's own operations: for every device and objective, captured or compiled or neither."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normbench.engine.augment import apply_crop_flip
from normbench.engine.batches import normalize
from normbench.engine.device import autocast
from normbench.engine.step.base import TrainStep
from normbench.engine.step.objective import Outcome


@dataclass(eq=False)
class EagerStep(TrainStep):
    """Trains with an optimizer of torch's; under `engine: compile`, with a compiled model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._offsets = torch.arange(self.settings.batch_size, device=self.state.order.device)
        self._compiled: Callable[[Tensor], Tensor] = self.model
        if self.settings.engine == "compile":
            is_deterministic = torch.are_deterministic_algorithms_enabled()
            torch.use_deterministic_algorithms(is_deterministic, warn_only=True)  # says so to the compiler too
            self._compiled = torch.compile(self.model)

    def run(self, batch_size: int) -> None:
        """Train on the next `batch_size` images of the epoch, and count the step."""
        self._before_step()
        self._set_learning_rate()
        images, labels = self._next_batch(batch_size)
        self.optimizer.zero_grad(set_to_none=True)
        outcome = self._backward(images, labels)
        self.optimizer.step()
        self._after_step()
        self._count(outcome)

    def _backward(self, images: Tensor, labels: Tensor) -> Outcome:
        """Add the gradients of the batch to the parameters', and return its losses."""
        outputs = self._forward(images)
        outcome = self.objective.outcome(outputs, labels)
        outcome.losses[0].backward()
        return outcome

    def _forward(self, images: Tensor) -> Any:
        with autocast(self.settings.device, self.settings.precision):
            return self.objective.forward(self._model_for(len(images)), normalize(images))

    def refresh(self) -> None:
        """Do nothing: no copies of the weights are kept."""

    def finish_capture(self) -> None:
        """Do nothing: the graph has all that it reads."""

    def _set_learning_rate(self) -> None:
        """Give the optimizer the schedule's rate."""
        state = self.state
        if state.learning_rates is not None:
            rate = state.learning_rates.index_select(0, state.global_step.view(1)).squeeze()  # [...] would ask the host
            for group in self.optimizer.param_groups:
                group["lr"].copy_(rate * group["learning_rate_factor"])

    def _next_batch(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Return the next images, uint8 ``(batch_size, C, H, W)``, augmented, and their labels ``(batch_size,)``."""
        state = self.state
        positions = state.step_in_epoch * self.settings.batch_size + self._offsets[:batch_size]
        indices = state.order[positions]
        images, labels = self.images.batch(indices)
        if state.crop_flip is not None:
            dx, dy, flip = (drawn[indices] for drawn in state.crop_flip)
            images = apply_crop_flip(images, dy, dx, flip)
        return images, labels

    def _model_for(self, batch_size: int) -> Callable[[Tensor], Tensor]:
        """Return the compiled model, or the model itself for a short last batch: not worth a compilation of its own."""
        whole = self.settings.micro_batch or self.settings.batch_size
        return self._compiled if batch_size == whole else self.model

    @torch.no_grad()
    def _count(self, outcome: Outcome) -> None:
        """Record the losses and go on to the next step."""
        state = self.state
        losses = torch.stack([loss.detach() for loss in outcome.losses])
        state.losses.index_copy_(0, state.step_in_epoch.view(1), losses[None])
        if outcome.num_correct is not None:
            state.num_correct += outcome.num_correct
        state.step_in_epoch += 1
        state.global_step += 1
