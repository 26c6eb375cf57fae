"""The objective of a training: which losses a batch has, of which the first is minimized."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import Tensor
from torch.nn import functional


class Outcome(NamedTuple):
    """The losses of one batch."""

    losses: tuple[Tensor, ...]
    """Float32 scalars: the first is minimized, and all are recorded."""
    num_correct: Tensor | None = None
    """How many images were classified correctly, an integer scalar; None where nothing is classified."""


class Objective(Protocol):
    """Computes the losses of a batch from tensors alone, so that it can be captured in a CUDA graph."""

    num_losses: int
    has_accuracy: bool
    """Whether the outcomes have a `num_correct`."""

    def forward(self, model: Callable[[Tensor], Tensor], images: Tensor) -> Any:
        """Run `model` on images ``(N, C, H, W)`` in [-1, 1]; autocast is on where the precision is bf16."""

    def outcome(self, outputs: Any, labels: Tensor) -> Outcome:
        """Return the losses of what `forward` returned, in float32."""


class CrossEntropy:
    """Mean cross-entropy in nats, with smoothed labels if wanted."""

    num_losses = 1
    has_accuracy = True

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def forward(self, model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Return the logits, ``(N, num_classes)``."""
        return model(images)

    def outcome(self, outputs: Tensor, labels: Tensor) -> Outcome:
        """Return the loss of logits, and how many are right."""
        loss = functional.cross_entropy(outputs.float(), labels, label_smoothing=self.label_smoothing)
        return Outcome((loss,), (outputs.argmax(dim=1) == labels).sum())
