"""Evaluation of a network on a split: loss, accuracy, and accuracy with each image's own statistics.

On CUDA the forward pass of whole batches can be captured once and replayed: a host asks for the many small operations
of a network more slowly than a GPU computes them, and a training evaluates after every epoch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench.engine.batches import EVALUATION_BATCH_SIZE, DeviceImages, normalize
from normbench.engine.device import DeviceName, Precision, autocast
from normbench.engine.step.prepare import capture_into, warm_up_and_capture
from normbench.kernels.support import switched_off

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
    return RepeatedEvaluation(model, images, device, precision, batch_size).launch(images).result()


class RepeatedEvaluation:
    """Evaluates `model` again and again: on other images, or after its weights have changed where they are.

    Batches are asked for one by one until they are captured. The model is left in the mode it was in. In training mode
    every split begins with the buffers that it has now, and all is in torch's own operations
    (`normbench.evaluation.statistics`).

    Args:
        model: the network.
        images: what other images are like.
        device: where both are.
        precision: of the forward pass.
        batch_size: images of a forward pass; the last one of a split may have fewer.
        in_training_mode: whether it is evaluated in training mode.
    """

    def __init__(
        self,
        model: nn.Module,
        images: DeviceImages,
        device: DeviceName,
        precision: Precision,
        batch_size: int = EVALUATION_BATCH_SIZE,
        *,
        in_training_mode: bool = False,
    ) -> None:
        self._model = model
        self._device, self._precision = device, precision
        self._in_training_mode = in_training_mode
        self._buffers = [(buffer, buffer.clone()) for buffer in model.buffers()] if in_training_mode else []
        self._loss_sum = torch.zeros((), device=images.labels.device)
        self._num_correct = _zero_count(images)
        self._first = images.first(batch_size)
        self._batch: tuple[Tensor, Tensor]
        """What the captured forward pass reads."""
        self._batch_size = batch_size
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def is_captured(self) -> bool:
        """Whether whole batches are replayed."""
        return self._graph is not None

    def warm_up(self) -> None:
        """Evaluate a batch, so that cuDNN has chosen its algorithms."""
        with self._evaluating():
            self._count(*self._first_batch())
            self._rewind()

    def warm_up_and_capture(self) -> None:
        """Capture the forward pass of whole batches, on CUDA; where that fails they are asked for one by one.

        Raises:
            ValueError: a norm cannot do with batches of this size.
        """
        if self._can_be_captured():
            self._batch = self._first_batch()
            with self._evaluating():
                graphs, _ = warm_up_and_capture([self._count_static], rewind=self._rewind)
            self._graph = graphs[0] if graphs else None

    def capture_in_memory_of(self, step: torch.cuda.CUDAGraph) -> None:
        """Capture as `warm_up_and_capture` does, after a `warm_up`, with the memory of `step`."""
        if self._can_be_captured():
            self._batch = self._first_batch()
            with self._evaluating():
                self._graph = capture_into(step, self._count_static)

    def launch(self, images: DeviceImages) -> PendingEvaluation:
        """Start to evaluate on `images`, without waiting for a GPU."""
        with self._evaluating():
            self._rewind()
            for indices in torch.arange(len(images), device=images.labels.device).split(self._batch_size):
                batch = images.batch(indices)
                if self._graph is None or len(indices) < self._batch_size:  # the last batch
                    self._count(*batch)
                else:
                    for static, values in zip(self._batch, batch, strict=True):
                        static.copy_(values)
                    self._graph.replay()
            return PendingEvaluation(self._loss_sum.clone(), self._num_correct.clone(), len(images))

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Have the model in the mode in which it is evaluated, without gradients, and then in the mode it was in."""
        was_training = self._model.training
        self._model.train(self._in_training_mode)
        try:
            with torch.no_grad():
                yield
        finally:
            self._model.train(was_training)

    def _can_be_captured(self) -> bool:
        return self._device == "cuda" and len(self._first) == self._batch_size

    def _first_batch(self) -> tuple[Tensor, Tensor]:
        return self._first.batch(torch.arange(len(self._first), device=self._first.labels.device))

    def _count_static(self) -> None:
        self._count(*self._batch)

    def _count(self, images: Tensor, labels: Tensor) -> None:
        """Add the losses and hits of a batch."""
        with switched_off() if self._in_training_mode else nullcontext(), autocast(self._device, self._precision):
            logits = self._model(normalize(images))
        self._loss_sum += functional.cross_entropy(logits.float(), labels, reduction="sum")
        self._num_correct += (logits.argmax(dim=1) == labels).sum()

    def _rewind(self) -> None:
        for buffer, value in self._buffers:
            buffer.copy_(value)
        self._loss_sum.zero_()
        self._num_correct.zero_()


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
