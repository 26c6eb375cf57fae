"""What a network says of every image of a split: class, confidence, loss; and the tables that follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from normbench.engine.batches import EVALUATION_BATCH_SIZE, DeviceImages
from normbench.engine.device import DeviceName, Precision
from normbench.engine.evaluate import classify
from normbench.runs.evaluation_file import NUM_BINS, CalibrationBin


@dataclass(frozen=True)
class Predictions:
    """One prediction per image, in the split's order."""

    labels: NDArray[np.int64]
    """The classes that the images have, ``(N,)``."""
    predicted: NDArray[np.int64]
    """The classes that the network names, ``(N,)``."""
    confidence: NDArray[np.float64]
    """The probabilities of these, ``(N,)``."""
    loss: float
    """Mean cross-entropy, in nats: the negative log-likelihood of the labels."""

    @property
    def is_hit(self) -> NDArray[np.bool_]:
        """Whether each image is classified correctly, ``(N,)``."""
        hits: NDArray[np.bool_] = self.predicted == self.labels
        return hits

    def confusion(self, num_classes: int) -> NDArray[np.int64]:
        """Return the number of images by class and by predicted class, ``(num_classes, num_classes)``."""
        pairs = np.bincount(self.labels * num_classes + self.predicted, minlength=num_classes**2)
        return pairs.reshape(num_classes, num_classes)

    def bins(self) -> tuple[CalibrationBin, ...]:
        """Return the images sorted by confidence into bins of equal width, ``(i / 15, (i + 1) / 15]``."""
        which = np.clip(np.ceil(self.confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
        counts = np.bincount(which, minlength=NUM_BINS)
        divisor = np.maximum(counts, 1)
        confidence = np.bincount(which, self.confidence, NUM_BINS) / divisor
        accuracy = np.bincount(which, self.is_hit, NUM_BINS) / divisor
        return tuple(
            CalibrationBin(num_images=int(count), confidence=min(float(conf), 1.0), accuracy=float(acc))
            for count, conf, acc in zip(counts, confidence, accuracy, strict=True)
        )


@torch.no_grad()
def predict(
    model: nn.Module,
    images: DeviceImages,
    device: DeviceName,
    precision: Precision,
    batch_size: int = EVALUATION_BATCH_SIZE,
) -> Predictions:
    """Return what `model`, in the mode that it is in, says of `images`."""
    predicted, confidence = [], []
    loss_sum = torch.zeros((), device=images.labels.device)
    for logits, labels in classify(model, images, device, precision, batch_size):
        probabilities = logits.float().softmax(dim=1)
        predicted.append(logits.argmax(dim=1))
        confidence.append(probabilities.gather(1, predicted[-1][:, None]).squeeze(1))
        loss_sum += functional.cross_entropy(logits.float(), labels, reduction="sum")
    return Predictions(
        labels=images.labels.cpu().numpy(),
        predicted=torch.cat(predicted).cpu().numpy(),
        confidence=torch.cat(confidence).double().cpu().numpy(),
        loss=float(loss_sum) / len(images),
    )
