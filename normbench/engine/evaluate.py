"""Loss and accuracy of a model on a split, in evaluation mode."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from normbench.engine.batches import DeviceImages, normalize
from normbench.engine.device import DeviceName, Precision, autocast

EVALUATION_BATCH_SIZE = 500
"""Fixed, because norms that use batch statistics in evaluation (`bn_nostats`) depend on it."""


@torch.no_grad()
def evaluate(
    model: nn.Module,
    images: DeviceImages,
    device: DeviceName,
    precision: Precision,
    batch_size: int = EVALUATION_BATCH_SIZE,
) -> tuple[float, float]:
    """Return mean cross-entropy in nats and accuracy as a fraction; the model is left in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        loss_sum = torch.zeros((), device=images.labels.device)
        num_correct = torch.zeros((), dtype=torch.int64, device=images.labels.device)
        for first in range(0, len(images), batch_size):
            indices = torch.arange(first, min(first + batch_size, len(images)), device=images.labels.device)
            batch, labels = images.batch(indices)
            with autocast(device, precision):
                logits = model(normalize(batch))
            loss_sum += functional.cross_entropy(logits.float(), labels, reduction="sum")
            num_correct += (logits.argmax(dim=1) == labels).sum()
        return float(loss_sum) / len(images), int(num_correct) / len(images)
    finally:
        model.train(was_training)
