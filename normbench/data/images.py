"""A data set in memory, and how images are set aside from it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from normbench.errors import ConfigError

EvalSplit = Literal["test", "val"]

IMAGE_SHAPE = (32, 32, 3)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageDataset:
    """Training and evaluation images with their labels.

    Images are uint8 RGB, ``(N, 32, 32, 3)`` or another square; labels are int64 from 0, ``(N,)``.
    """

    name: str
    x_train: NDArray[np.uint8]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.uint8]
    """Images to evaluate on: those of the test set or, if `eval_split` is ``val``, some held out from training."""
    y_test: NDArray[np.int64]
    class_names: tuple[str, ...]
    source: str
    """The origin of the images, in a line: a path and its format, or how they were drawn."""
    is_synthetic: bool
    eval_split: EvalSplit

    @cached_property
    def sha256(self) -> str:
        """A SHA-256 of all images and labels in their order."""
        return arrays_sha256(self.x_train, self.y_train, self.x_test, self.y_test)


def arrays_sha256(*arrays: NDArray[Any]) -> str:
    """Return a SHA-256 of the arrays' types, shapes and values."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def class_balanced_order(images: NDArray[np.uint8], labels: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return a shuffle, ``(N,)`` indices, in which every class is spread evenly.

    Of classes of equal size any prefix holds equally many, give or take one. The images are sorted by their SHA-256, so
    that the shuffle is the same on every machine, whatever order they are stored in.
    """
    keys = np.array([int.from_bytes(digest[:8], "big") for digest in image_digests(images)], np.uint64)
    by_class = np.lexsort((keys, labels))
    class_sizes = np.bincount(labels)
    class_starts = np.repeat(np.cumsum(class_sizes) - class_sizes, class_sizes)
    rank_in_class = np.empty(len(labels), np.int64)
    rank_in_class[by_class] = np.arange(len(labels)) - class_starts
    return np.lexsort((keys, rank_in_class))


Split = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]
"""Training images and labels, images and labels to evaluate on."""


def hold_out(images: NDArray[np.uint8], labels: NDArray[np.int64], count: int) -> Split:
    """Return training images without `count` of them, and these to evaluate on: spread over classes, always equal."""
    is_held_out = np.zeros(len(labels), bool)
    is_held_out[class_balanced_order(images, labels)[:count]] = True
    return images[~is_held_out], labels[~is_held_out], images[is_held_out], labels[is_held_out]


def first_images(
    x_train: NDArray[np.uint8],
    y_train: NDArray[np.int64],
    x_test: NDArray[np.uint8],
    y_test: NDArray[np.int64],
    num_train: int | None,
    num_test: int | None,
) -> Split:
    """Keep the first images of a class-balanced shuffle of each split; all of it where the number is None."""
    if num_train is not None:
        order = class_balanced_order(x_train, y_train)[:num_train]
        x_train, y_train = x_train[order], y_train[order]
    if num_test is not None:
        order = class_balanced_order(x_test, y_test)[:num_test]
        x_test, y_test = x_test[order], y_test[order]
    return x_train, y_train, x_test, y_test


def image_digests(images: NDArray[np.uint8]) -> list[bytes]:
    """Return the SHA-256 of each image's bytes."""
    return [hashlib.sha256(image.data).digest() for image in np.ascontiguousarray(images)]


def check_count(option: str, count: object, maximum: int) -> None:
    """Raise `ConfigError` unless `count` is a number of images from 1 to `maximum`."""
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= maximum:
        raise ConfigError(f"dataset: {option} must be a whole number from 1 to {maximum:,}, not {count!r}")


def channel_mean_std(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel over all pixels of all images, on the scale 0 to 1."""
    values = np.arange(256) / 255
    counts = np.zeros((images.shape[-1], 256))  # exact, and without a copy of the images in floating point
    for start in range(0, len(images), 500):
        for channel, channel_counts in enumerate(counts):
            channel_counts += np.bincount(images[start : start + 500, ..., channel].ravel(), minlength=256)
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
    return tuple(mean.tolist()), tuple(std.tolist())
