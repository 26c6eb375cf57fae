"""The training step on a batch in parts, whose gradients add up: norms see a part, the optimizer the whole batch."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from normbench.engine.step.eager import EagerStep
from normbench.engine.step.objective import Outcome
from normbench.engine.step.synchronized import Part, SynchronizedStatistics


@dataclass(eq=False)
class AccumulatedStep(EagerStep):
    """Trains on `settings.micro_batch` images at once; only so many have activations in memory at a time.

    A part's mean loss counts by its share of the batch's images, so that without statistics over images the gradient is
    that of the whole batch. With `settings.sync_statistics` it is so with BN too, at many passes per step.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._synchronized = SynchronizedStatistics(self.model) if self.settings.sync_statistics else None

    def forward_sizes(self) -> list[int]:
        """Return the numbers of images that the network sees at once."""
        parts = {len(part) for size in self.batch_sizes() for part in self._split(torch.empty(size))}
        return sorted(parts, reverse=True)

    def _split(self, batch: Tensor) -> tuple[Tensor, ...]:
        assert self.settings.micro_batch is not None
        parts: tuple[Tensor, ...] = batch.split(self.settings.micro_batch)
        return parts

    def _backward(self, images: Tensor, labels: Tensor) -> Outcome:
        """Add the gradients of the batch to the parameters', part by part, and return its losses."""
        parts = list(zip(self._split(images), self._split(labels), strict=True))
        shares = [len(part_labels) / len(labels) for _, part_labels in parts]

        def loss_of(position: int) -> Tensor:
            part_images, part_labels = parts[position]
            outcomes[position] = self.objective.outcome(self._forward(part_images), part_labels)
            return shares[position] * outcomes[position].losses[0]

        outcomes: dict[int, Outcome] = {}
        synchronized = self._synchronized
        runs = [Part(partial(loss_of, position), share) for position, share in enumerate(shares)]
        with nullcontext() if synchronized is None else synchronized.over(runs):
            for run in runs:
                loss = run.run()
                (loss if synchronized is None else synchronized.total(loss, run.share)).backward()
        return _weighted_sum(list(outcomes.values()), shares)


def _weighted_sum(outcomes: list[Outcome], shares: list[float]) -> Outcome:
    """Return the losses of a whole batch, given those of its parts and their shares of the images."""
    rows = [torch.stack([loss.detach() for loss in outcome.losses]) for outcome in outcomes]
    losses = torch.stack([share * row for share, row in zip(shares, rows, strict=True)]).sum(0)
    correct = [outcome.num_correct for outcome in outcomes if outcome.num_correct is not None]
    return Outcome(tuple(losses.unbind()), torch.stack(correct).sum() if correct else None)
