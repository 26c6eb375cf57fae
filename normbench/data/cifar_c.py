"""The official corrupted test images, CIFAR-10-C and CIFAR-100-C (Hendrycks & Dietterich 2019, arXiv 1903.12261).

A folder ``CIFAR-10-C`` beside CIFAR-10 holds ``labels.npy`` and a file for each kind, such as ``fog.npy``: 50,000
images, the 10,000 test images in order for each of five severities. See https://zenodo.org/records/2535967.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normbench.data.images import IMAGE_SHAPE
from normbench.data.locate import places, searched
from normbench.errors import DataError

_NUM_IMAGES = 10_000
_FOLDERS = {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C"}


def find_official(dataset: str, data_dir: Path | None) -> Path:
    """Return the folder with the official corruptions of a data set.

    Raises:
        DataError: it has none, or they are in none of the places searched.
    """
    if dataset not in _FOLDERS:
        raise DataError(
            f"evaluate: there are no official corruptions of {dataset}, only of {' and '.join(_FOLDERS)}; "
            "corruptions: generated makes some of any images"
        )
    looked = [place.folder / _FOLDERS[dataset] for place in searched(places(data_dir))]
    for folder in looked:
        if (folder / "labels.npy").is_file():
            return folder
    raise DataError(
        f"{_FOLDERS[dataset]} not found: no labels.npy in {' or '.join(map(str, looked))}\n"
        "  to get it:    unpack https://zenodo.org/records/2535967 (2.9 GB) there, or name another --data-dir\n"
        "  without it:   corruptions: generated   (drawn in the style of these; the results say so)"
    )


def read_corruption(folder: Path, kind: str, severity: int, labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the test images, uint8 ``(10000, 32, 32, 3)``, under one corruption.

    `labels`, ``(N,)``, are those of the images that are evaluated on, which must be the test images in order.

    Raises:
        DataError: a file is missing or damaged, or the images evaluated on are others.
    """
    _check_labels(folder, labels)
    return np.array(_images(folder, kind)[_NUM_IMAGES * (severity - 1) : _NUM_IMAGES * severity])


def check_official(folder: Path, kinds: Iterable[str], labels: NDArray[np.int64]) -> None:
    """Check that a folder has the corruptions `kinds` of the images with these labels, without reading images.

    Raises:
        DataError: a file is missing or damaged, or the images evaluated on are others.
    """
    _check_labels(folder, labels)
    for kind in kinds:
        _images(folder, kind)


def _check_labels(folder: Path, labels: NDArray[np.int64]) -> None:
    theirs = _mapped(folder / "labels.npy", (5 * _NUM_IMAGES,))
    if len(labels) != _NUM_IMAGES or (theirs.reshape(5, -1) != labels).any():
        raise DataError(
            f"{folder / 'labels.npy'}: of other images than those evaluated on. Official corruptions are of all 10,000 "
            "test images: eval_split: test, without num_test"
        )


def _images(folder: Path, kind: str) -> NDArray[np.uint8]:
    return _mapped(folder / f"{kind}.npy", (5 * _NUM_IMAGES, *IMAGE_SHAPE))


def _mapped(path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the array of bytes in an npy file without reading all of it."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: damaged or no npy file ({error})") from error
    if found.shape != shape or found.dtype.kind not in "iu" or (len(shape) > 1 and found.dtype != np.uint8):
        raise DataError(f"{path}: {found.dtype} {found.shape}, not bytes of shape {shape}")
    return found
