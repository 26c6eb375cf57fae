"""A data set in memory, and how images are set aside from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from normbench.errors import ConfigError

EvalSplit = Literal["test", "val"]

IMAGE_SHAPE = (32, 32, 3)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageDataset:
    """Training and evaluation images with their labels.

    Images are uint8 RGB, ``(N, 32, 32, 3)``; labels are int64 from 0, ``(N,)``.
    """

    name: str
    x_train: NDArray[np.uint8]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.uint8]
    """What is evaluated on: the test images or, if `eval_split` is ``val``, images held out from the training set."""
    y_test: NDArray[np.int64]
    class_names: tuple[str, ...]
    source: str
    """Where the images come from, in a line: a path and its format, or how they were drawn."""
    is_synthetic: bool
    eval_split: EvalSplit


def class_balanced_order(labels: NDArray[np.integer], seed: int) -> NDArray[np.int64]:
    """Return a permutation of ``range(len(labels))`` in which every class is spread evenly.

    Of classes of equal size any prefix holds equal numbers, give or take one. The order depends on nothing but `labels`
    and `seed`: it sorts by the raw words of PCG64, a stream that NumPy guarantees never to change.
    """
    words = np.random.PCG64(seed).random_raw(len(labels))
    by_class = np.lexsort((words, labels))
    class_sizes = np.bincount(labels)
    class_starts = np.repeat(np.cumsum(class_sizes) - class_sizes, class_sizes)
    rank_in_class = np.empty(len(labels), np.int64)
    rank_in_class[by_class] = np.arange(len(labels)) - class_starts
    return np.lexsort((words, rank_in_class))


def check_count(option: str, count: object, maximum: int) -> None:
    """Raise `ConfigError` unless `count` is a number of images from 1 to `maximum`."""
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= maximum:
        raise ConfigError(f"dataset: {option} must be a whole number from 1 to {maximum:,}, not {count!r}")
