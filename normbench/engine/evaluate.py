"""Evaluation of a trained network on one split: loss, accuracy, and accuracy with each image's own statistics."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.engine.batches import DeviceImages, normalize
from normbench.engine.device import DeviceName, Precision, autocast

EVALUATION_BATCH_SIZE = 500
"""Fixed, because norms that use batch statistics in evaluation (`bn_nostats`) depend on it."""
MAX_SINGLE_IMAGES = 2000
"""Test images of `batch_statistics_accuracy`, because each is a forward pass of its own."""


class Evaluation(NamedTuple):
    """The loss and accuracy of a network on a split."""

    loss: float
    """Mean cross-entropy, in nats."""
    accuracy: float
    """Fraction of images, 0 to 1."""


class PendingEvaluation(NamedTuple):
    """An evaluation that the device may still be computing."""

    loss_sum: Tensor
    num_correct: Tensor
    num_images: int

    def result(self) -> Evaluation:
        """Return loss and accuracy; waits for the device."""
        return Evaluation(float(self.loss_sum) / self.num_images, int(self.num_correct) / self.num_images)


def evaluate(
    model: nn.Module,
    images: DeviceImages,
    device: DeviceName,
    precision: Precision,
    batch_size: int = EVALUATION_BATCH_SIZE,
) -> Evaluation:
    """Return loss and accuracy in evaluation mode; the model is left in the mode it was in."""
    return launch_evaluation(model, images, device, precision, batch_size).result()


@torch.no_grad()
def launch_evaluation(
    model: nn.Module,
    images: DeviceImages,
    device: DeviceName,
    precision: Precision,
    batch_size: int = EVALUATION_BATCH_SIZE,
) -> PendingEvaluation:
    """Start what `evaluate` does, without waiting for a GPU."""
    was_training = model.training
    model.eval()
    try:
        return _launch(model, images, device, precision, batch_size)
    finally:
        model.train(was_training)


@torch.no_grad()
def _launch(
    model: nn.Module, images: DeviceImages, device: DeviceName, precision: Precision, batch_size: int
) -> PendingEvaluation:
    loss_sum = torch.zeros((), device=images.labels.device)
    num_correct = _zero_count(images)
    for logits, labels in classify(model, images, device, precision, batch_size):
        loss_sum += functional.cross_entropy(logits.float(), labels, reduction="sum")
        num_correct += (logits.argmax(dim=1) == labels).sum()
    return PendingEvaluation(loss_sum, num_correct, len(images))


@torch.no_grad()
def batch_statistics_accuracy(
    model: nn.Module, images: DeviceImages, device: DeviceName, precision: Precision
) -> float:
    """Return the accuracy, a fraction, of single images in training mode: statistics are those of the image alone.

    That is what a network trained at batch size 1 saw in training. Over the first `MAX_SINGLE_IMAGES` images; `model`
    and its running statistics stay as they are.
    """
    model = copy.deepcopy(model).train()
    images = images.first(MAX_SINGLE_IMAGES)
    num_correct = _zero_count(images)
    for logits, label in classify(model, images, device, precision, batch_size=1):
        num_correct += (logits.argmax(dim=1) == label).sum()
    return int(num_correct) / len(images)


def classify(
    model: nn.Module, images: DeviceImages, device: DeviceName, precision: Precision, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits and labels of each batch, in order."""
    for indices in torch.arange(len(images), device=images.labels.device).split(batch_size):
        batch, labels = images.batch(indices)
        with autocast(device, precision):
            logits = model(normalize(batch))
        yield logits, labels


def _zero_count(images: DeviceImages) -> Tensor:
    return torch.zeros((), dtype=torch.int64, device=images.labels.device)
