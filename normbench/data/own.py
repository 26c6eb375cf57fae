"""Images of a user's own: an ``.npz`` with ``x_train``, ``y_train``, ``x_test`` and ``y_test``.

Images are uint8 RGB, ``(N, S, S, 3)`` with S from 8 to 96; labels are whole numbers from 0, ``(N,)``. Nothing in the
file is executed: pickled objects are refused.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normbench.config.schema import DatasetConfig, ImageFile
from normbench.data.formats import Arrays, NpzProblem, read_npz_arrays
from normbench.data.images import EvalSplit, ImageDataset, check_count, first_images, hold_out
from normbench.data.locate import places, searched
from normbench.errors import ConfigError, DataError, UnknownNameError
from normbench.registry import OptionValue
from normbench.runs.regular_files import open_regular

OPTIONS: Mapping[str, OptionValue] = MappingProxyType({"eval_split": "test", "num_train": None, "num_test": None})
SMALLEST_SIZE, LARGEST_SIZE = 8, 96
MAX_BYTES = 16 * 2**30
"""The most bytes that the images may take in memory."""
_VAL_SHARE = 10
"""With ``eval_split: val``, one training image in so many is evaluated on."""


def is_own_images(config: DatasetConfig) -> bool:
    """Return whether a data set is a file of a user's own."""
    return config.images is not None or config.name.endswith(".npz")


def find_images(config: DatasetConfig, folders: Iterable[Path], data_dir: Path | None) -> DatasetConfig:
    """Return the data set called by its file's name alone, with what the file holds and where it is.

    It is looked for in `folders`, and then where CIFAR-10 is, by its name alone.

    Raises:
        ConfigError: there is no such file, it is not the one that was recorded, or holds no images of this kind.
    """
    name = Path(config.name)
    by_name = [place.folder / name.name for place in searched(places(data_dir))]
    candidates = [*(folder / name for folder in folders), *by_name]
    path = next((place for place in candidates if os.path.isfile(place)), None)
    if path is None:
        looked = ", ".join(dict.fromkeys(str(place.parent) for place in candidates))
        raise ConfigError(f"{config.name}: no such file in {looked}; --data-dir DIR names another folder")
    found = _describe(path)
    if config.images is not None and config.images.sha256 != found.sha256:
        raise ConfigError(f"{path}: is not the file that was recorded: its content has changed")
    return config.model_copy(update={"name": name.name, "images": found.at(path)})


def _describe(path: Path) -> ImageFile:
    try:
        arrays = _read(path)
    except DataError as error:
        raise ConfigError(str(error)) from error
    num_classes = int(max(arrays.y_train.max(), arrays.y_test.max())) + 1
    return ImageFile(
        sha256=_sha256(path), num_classes=num_classes,
        image_size=arrays.x_train.shape[1], num_train=len(arrays.y_train),
    )  # fmt: skip


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_own_images(
    images: ImageFile,
    name: str,
    *,
    eval_split: EvalSplit = "test",
    num_train: int | None = None,
    num_test: int | None = None,
) -> ImageDataset:
    """Load the images of a file.

    Args:
        images: the file, found by `find_images`.
        name: what the data set is called.
        eval_split: ``val``: evaluate on a tenth of the training images, which are not trained on.
        num_train: take only so many training images, spread evenly over the classes and always the same.
        num_test: the same for the images evaluated on.

    Raises:
        ConfigError: an option's value is not allowed.
        DataError: the file is missing, damaged, or another than when the run was planned.
    """
    path = images.path
    if path is None:
        raise DataError(f"{name}: the place of the file is not at hand")
    if eval_split not in ("test", "val"):
        raise UnknownNameError(f"eval_split of dataset {name!r}", eval_split, ("test", "val"))
    arrays = _read(path)
    if _sha256(path) != images.sha256:
        raise DataError(f"{path}: has changed since the run was planned")
    if eval_split == "val":
        arrays = Arrays(*hold_out(*arrays[:2], len(arrays.y_train) // _VAL_SHARE))
    for option, count, there in (("num_train", num_train, arrays.y_train), ("num_test", num_test, arrays.y_test)):
        if count is not None:
            check_count(option, count, len(there))
    return ImageDataset(
        name=name,
        **Arrays(*first_images(*arrays, num_train, num_test))._asdict(),
        class_names=tuple(map(str, range(images.num_classes))),
        source=f"{path.name} (npz, sha256 {images.sha256})",
        is_synthetic=False,
        eval_split=eval_split,
    )


def _read(path: Path) -> Arrays:
    """Read and check the four arrays; each header is checked before memory is taken for its data.

    Raises:
        DataError: something is missing, of another kind, or damaged.
    """
    arrays = read_npz_arrays(path, _check_header)
    sizes = {array.shape[1] for array in (arrays["x_train"], arrays["x_test"])}
    if len(sizes) > 1:
        raise DataError(f"{path}: x_train and x_test have images of different sizes: {sizes}")
    for split in ("train", "test"):
        images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"].reshape(-1)
        if len(images) != len(labels):
            raise DataError(f"{path}: x_{split} has {len(images):,} images and y_{split} {len(labels):,} labels")
        if len(labels) == 0:
            raise DataError(f"{path}: x_{split} holds no image")
        if labels.min() < 0:
            raise DataError(f"{path}: y_{split} holds the label {labels.min()}; labels count from 0")
    unseen = set(np.unique(arrays["y_test"]).tolist()) - set(np.unique(arrays["y_train"]).tolist())
    if unseen:
        raise DataError(f"{path}: y_test holds the label {min(unseen)}, of which x_train has no image")
    return Arrays(
        np.ascontiguousarray(arrays["x_train"]), _labels(arrays["y_train"]),
        np.ascontiguousarray(arrays["x_test"]), _labels(arrays["y_test"]),
    )  # fmt: skip


def _labels(labels: NDArray[Any]) -> NDArray[np.int64]:
    return labels.reshape(-1).astype(np.int64)


def _check_header(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if name.startswith("x"):
        is_square = len(shape) == 4 and shape[1] == shape[2] and shape[3] == 3
        if dtype != np.uint8 or not is_square or not SMALLEST_SIZE <= shape[1] <= LARGEST_SIZE:
            raise NpzProblem(
                f"{name} is {dtype} {shape}, not uint8 (N, S, S, 3) with S from {SMALLEST_SIZE} to {LARGEST_SIZE}"
            )
        if int(np.prod(shape, dtype=object)) > MAX_BYTES:
            raise NpzProblem(f"{name} takes more than {MAX_BYTES // 2**30} GiB")
    elif dtype.kind not in "iu" or len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
        raise NpzProblem(f"{name} is {dtype} {shape}, not whole numbers (N,)")
