"""A run's `evaluation.json`: what its trained network does on every image, beyond one accuracy. Nothing needs torch.

Accuracies are fractions from 0 to 1, losses mean cross-entropies in nats. All other numbers (accuracy by class,
calibration error, gaps) follow from these records.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StringConstraints, model_validator

from normbench.runs.bundle_file import exists
from normbench.runs.untrusted import checked, read_json
from normbench.tasks.task import Count, Fraction, Loss, Row

EVALUATION_FILE = "evaluation.json"
NUM_BINS = 15
"""Bins of equal width of the calibration error, as in Guo et al. 2017 (arXiv 1706.04599)."""
_MAX_BYTES = 16 * 2**20
_MAX_CLASSES = 1000

Statistics = Literal["running", "batch", "re-estimated"]
"""Where a norm takes its statistics from: as in evaluation, as in training, or averaged anew over training images."""
Weights = Literal["last", "average"]
Text = Annotated[str, StringConstraints(max_length=200)]


class CalibrationBin(Row):
    """The images whose confidence, the largest probability, lies in one bin."""

    num_images: Count
    confidence: Fraction
    """Mean over the images; 0 without any."""
    accuracy: Fraction


class TrainImages(Row):
    """Training images in evaluation mode, without augmentation."""

    num_images: Count
    accuracy: Fraction
    loss: Loss


class ViewsResult(Row):
    """The test images with logits averaged over several views of each (`normbench.evaluation.views`)."""

    num_views: Annotated[int, Field(ge=2, le=100)]
    accuracy: Fraction
    loss: Loss


class StatisticsResult(Row):
    """The test images with the norms' statistics from one source."""

    weights: Weights
    statistics: Statistics
    batch_size: Annotated[int, Field(ge=1, le=2**31)] | None = None
    """Images that share statistics, where they are those of a batch."""
    num_images: Count
    accuracy: Fraction
    loss: Loss


class CorruptionResult(Row):
    """The test images under one corruption."""

    kind: Text
    severity: Annotated[int, Field(ge=1, le=5)]
    accuracy: Fraction
    """With statistics as after training."""
    adapted_accuracy: Fraction | None = None
    """With statistics of the corrupted batch; None where the norms have no others."""


class Corruptions(Row):
    """All corruptions that were tried, and where they come from."""

    source: Literal["generated", "official"]
    seed: Count | None = None
    """Of generated ones; the device draws, so that a CPU and a GPU corrupt differently."""
    adapted_batch_size: Annotated[int, Field(ge=1)]
    results: Annotated[tuple[CorruptionResult, ...], Field(min_length=1, max_length=200)]

    @property
    def mean_error(self) -> float:
        """The mean error over kinds and severities, not divided by that of another network."""
        return float(np.mean([1 - result.accuracy for result in self.results]))

    @property
    def mean_adapted_error(self) -> float | None:
        """The same with adapted statistics; where there are none, None."""
        found = [result.adapted_accuracy for result in self.results]
        errors = [1 - accuracy for accuracy in found if accuracy is not None]
        return float(np.mean(errors)) if len(errors) == len(found) else None


class Evaluation(Row):
    """The evaluation of one trained network."""

    split: Literal["test", "val"]
    num_images: Annotated[int, Field(ge=1, le=10_000_000)]
    class_names: Annotated[tuple[Text, ...], Field(min_length=1, max_length=_MAX_CLASSES)]
    confusion: tuple[tuple[Count, ...], ...]
    """Images by class, a row each, and by predicted class."""
    loss: Loss
    bins: Annotated[tuple[CalibrationBin, ...], Field(min_length=NUM_BINS, max_length=NUM_BINS)]
    hits: str
    """A bit for each image, in the data set's order, 1 where it was classified correctly: packed, then base64."""
    train: TrainImages
    statistics: Annotated[tuple[StatisticsResult, ...], Field(max_length=100)] = ()
    """Empty where neither the mode nor the batch changes what the network says of an image."""
    views: ViewsResult | None = None
    """None where only the images themselves were asked for."""
    num_averaged: Count = 0
    """Epochs over whose ends the averaged weights were taken; 0 without such."""
    corruptions: Corruptions | None = None
    measured_on: Mapping[Text, Text | None] = {}
    """Device, version of torch and precision of the evaluation, which may come long after the training."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Refuse counts that contradict each other."""
        num_classes = len(self.class_names)
        if len(self.confusion) != num_classes or any(len(row) != num_classes for row in self.confusion):
            raise ValueError("confusion: not a row and a column for each class")
        if sum(map(sum, self.confusion)) != self.num_images:
            raise ValueError("confusion: not as many images as were evaluated")
        if sum(entry.num_images for entry in self.bins) != self.num_images:
            raise ValueError("bins: not as many images as were evaluated")
        if int(self.hit_bits.sum()) != int(np.trace(np.array(self.confusion))):
            raise ValueError("hits: other than the confusion matrix has")
        return self

    @property
    def accuracy(self) -> float:
        """The share of images that were classified correctly."""
        return float(np.trace(np.array(self.confusion))) / self.num_images

    @property
    def class_accuracies(self) -> NDArray[np.float64]:
        """The accuracy within each class, ``(num_classes,)``; NaN for a class without images."""
        confusion = np.array(self.confusion, np.float64)
        sizes = confusion.sum(axis=1)
        accuracies: NDArray[np.float64] = np.full(len(sizes), np.nan)
        np.divide(np.diag(confusion), sizes, out=accuracies, where=sizes > 0)
        return accuracies

    @property
    def calibration_error(self) -> float:
        """The expected calibration error: the mean over images of |accuracy - confidence| of their bin."""
        return sum(e.num_images * abs(e.accuracy - e.confidence) for e in self.bins) / self.num_images

    @property
    def train_test_gap(self) -> float:
        """Accuracy on training images minus that on test images, both in evaluation mode."""
        return self.train.accuracy - self.accuracy

    @property
    def hit_bits(self) -> NDArray[np.uint8]:
        """1 for each image that was classified correctly, in the data set's order, ``(num_images,)``."""
        packed = np.frombuffer(base64.b64decode(self.hits, validate=True), np.uint8)
        if len(packed) != -(-self.num_images // 8):
            raise ValueError("hits: not a bit for each image")
        return np.unpackbits(packed, count=self.num_images)

    def with_statistics(self, statistics: Statistics, batch_size: int | None, weights: Weights) -> float | None:
        """Return the accuracy with statistics from there; None where that was not measured."""
        wanted = (statistics, batch_size, weights)
        found = (row for row in self.statistics if (row.statistics, row.batch_size, row.weights) == wanted)
        return next((row.accuracy for row in found), None)


def pack_hits(is_hit: NDArray[np.bool_]) -> str:
    """Return `is_hit`, ``(num_images,)``, as `Evaluation.hits` has it: 1.7 kB for 10,000 images."""
    return base64.b64encode(np.packbits(is_hit).tobytes()).decode("ascii")


def read_evaluation(run_folder: Path) -> Evaluation | None:
    """Return the evaluation of the run in `run_folder`, which may be in a bundle; None where there is none.

    Raises:
        RunError: it cannot be understood.
    """
    path = run_folder / EVALUATION_FILE
    if not exists(path):
        return None
    return checked(Evaluation, read_json(path, _MAX_BYTES), path)
