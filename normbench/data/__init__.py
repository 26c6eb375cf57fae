"""The data sets that networks are trained on: a literal registry, importable without torch.

To add a data set: write ``load(**options) -> ImageDataset`` in a file beside this one (with ``data_dir`` first where it
reads files) and add an entry to `DATASETS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from normbench.config.schema import DatasetConfig
from normbench.registry import OptionValue, check_option_names, find, load

if TYPE_CHECKING:
    from normbench.data.images import ImageDataset

__all__ = ["DATASETS", "Dataset", "ImageShape", "image_shape", "load_dataset"]


@dataclass(frozen=True, kw_only=True)
class ImageShape:
    """What a network must know of the images: the number of classes, and height and width."""

    num_classes: int
    image_size: int


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One data set of square colour images."""

    load: str
    """The function that loads it, as ``"package.module:function"``."""
    label: str
    description: str
    options: Mapping[str, OptionValue]
    """The options with their defaults."""
    max_train: int
    """The most training images that it has."""
    needs_files: bool
    """Whether it is read from disk, so that `load_dataset`'s `data_dir` matters."""
    shape: ImageShape = field(default_factory=lambda: ImageShape(num_classes=10, image_size=32))


DATASETS: Mapping[str, Dataset] = MappingProxyType(
    {
        "cifar10": Dataset(
            load="normbench.data.cifar:load_cifar10",
            label="CIFAR-10",
            description="50,000 training and 10,000 test photographs (Krizhevsky, 2009), read from disk",
            options=MappingProxyType({"eval_split": "test", "num_train": None, "num_test": None}),
            max_train=50_000,
            needs_files=True,
        ),
        "cifar100": Dataset(
            load="normbench.data.cifar:load_cifar100",
            label="CIFAR-100",
            description="as many photographs in 100 classes, 500 and 100 of each (Krizhevsky, 2009), read from disk",
            options=MappingProxyType({"eval_split": "test", "num_train": None, "num_test": None}),
            max_train=50_000,
            needs_files=True,
            shape=ImageShape(num_classes=100, image_size=32),
        ),
        "synthetic": Dataset(
            load="normbench.data.synthetic:load_synthetic",
            label="synthetic shapes",
            description="built-in drawings of ten shapes and textures, made on the spot; no files needed",
            options=MappingProxyType({"num_train": 10_000, "num_test": 2_000, "seed": 0}),
            max_train=1_000_000,
            needs_files=False,
        ),
    }
)


def image_shape(config: DatasetConfig) -> ImageShape:
    """Return number of classes and image size of the data set that a run's config names."""
    if config.images is None:
        return DATASETS[config.name].shape
    return ImageShape(num_classes=config.images.num_classes, image_size=config.images.image_size)


def load_dataset(name: str, *, data_dir: Path | None = None, **options: OptionValue) -> ImageDataset:
    """Load the data set called `name` into memory.

    Args:
        name: a key of `DATASETS`.
        data_dir: the only folder to look in; if absent, ``NORMBENCH_DATA_DIR``, or else ``./data`` and the user cache.
        options: see `DATASETS[name].options`.

    Raises:
        UnknownNameError: `name` is not a data set, or an option is not one of its options.
        ConfigError: an option's value is not allowed.
        DataError: the data set is missing or damaged.
    """
    entry = find("dataset", name, DATASETS)
    check_option_names(f"dataset {name!r}", options, entry.options)
    place = {"data_dir": data_dir} if entry.needs_files else {}
    return cast("ImageDataset", load(entry.load)(**place, **{**entry.options, **options}))
