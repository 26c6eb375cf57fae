"""A training step as the loop around it sees it: run or replayed from a graph, its losses read back later."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import nn

from normbench.engine.batches import DeviceImages
from normbench.engine.optimizer import Optimizer
from normbench.engine.step.objective import Objective
from normbench.engine.step.state import StepSettings, StepState
from normbench.layers.hooks import modules_with_hooks


@dataclass(eq=False)
class TrainStep(ABC):
    """Trains on one batch a call. Call `prepare` once before all, `state.start_epoch` before an epoch's first step.

    A step reads its batch, learning rate and progress from device tensors that it advances itself (`StepState`), so
    that the same code runs step by step or replays as a CUDA graph.
    """

    model: nn.Module
    optimizer: Optimizer
    objective: Objective
    images: DeviceImages
    settings: StepSettings
    state: StepState
    graphs: dict[int, torch.cuda.CUDAGraph] = field(default_factory=dict, init=False)
    """The captured steps, by batch size."""
    nondeterministic: list[str] = field(default_factory=list, init=False)
    """The operations that may give other bits each time (`normbench.engine.same_bits`)."""
    fallback_reason: str | None = field(default=None, init=False)
    """Why the steps run one by one although a graph was asked for."""

    def __post_init__(self) -> None:
        self._hooked = modules_with_hooks(self.model)

    @abstractmethod
    def run(self, batch_size: int) -> None:
        """Train on the next `batch_size` images of the epoch, and count the step."""

    @abstractmethod
    def refresh(self) -> None:
        """Take over weights that something else has changed."""

    @abstractmethod
    def finish_capture(self) -> None:
        """Make the graph whose capture has just ended ready to be replayed."""

    def __call__(self, step_in_epoch: int) -> None:
        """Train on the batch of `step_in_epoch`; steps of an epoch come in order."""
        batch_size = self.batch_size_of(step_in_epoch)
        graph = self.graphs.get(batch_size)
        if graph is None:
            self.run(batch_size)
        else:
            graph.replay()

    def batch_size_of(self, step_in_epoch: int) -> int:
        """Return the number of images of a step; the last of an epoch may be smaller."""
        return min(self.settings.batch_size, self.settings.num_images - step_in_epoch * self.settings.batch_size)

    def batch_sizes(self) -> list[int]:
        """Return the size of all batches and, if it is another, that of the last."""
        sizes = {self.batch_size_of(0), self.batch_size_of(self.settings.steps_per_epoch - 1)}
        return sorted(sizes, reverse=True)

    def forward_sizes(self) -> list[int]:
        """Return the numbers of images that the network sees at once: those of whole batches."""
        return self.batch_sizes()

    def losses(self, first: int, stop: int) -> list[tuple[float, ...]]:
        """Return the losses of the epoch's steps ``first`` to ``stop - 1``; waits for the device."""
        return [tuple(row) for row in self.state.losses[first:stop].tolist()]

    def num_correct(self) -> int:
        """Return how many training images of this epoch were classified correctly; waits for the device."""
        return int(self.state.num_correct)

    def _before_step(self) -> None:
        """Tell the layers that follow training how far it is."""
        if self._hooked:
            progress = self.state.global_step / self.settings.num_steps
            for layer in self._hooked:
                layer.before_step(progress)

    @torch.no_grad()
    def _after_step(self) -> None:
        """Let the layers that follow training correct their parameters."""
        for layer in self._hooked:
            layer.after_step()
