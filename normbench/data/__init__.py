"""The images that networks are trained on: a literal registry, importable without torch.

To add a data set: write ``load(**options) -> ImageDataset`` in a file beside this one (with ``data_dir`` first where it
reads files) and add an entry to `DATASETS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from normbench.errors import UnknownNameError

if TYPE_CHECKING:
    from normbench.data.images import ImageDataset

__all__ = ["DATASETS", "Dataset", "load_dataset"]

OptionValue = bool | int | float | str | None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One data set: ten classes of 32x32 colour images."""

    load: str
    """``"file:function"`` in this package."""
    label: str
    description: str
    options: Mapping[str, OptionValue]
    """Its options with their defaults."""
    needs_files: bool
    """Whether it is read from disk, so that `load_dataset`'s `data_dir` matters."""


DATASETS: Mapping[str, Dataset] = MappingProxyType(
    {
        "cifar10": Dataset(
            load="cifar10:load_cifar10",
            label="CIFAR-10",
            description="50,000 training and 10,000 test photographs (Krizhevsky, 2009), read from disk",
            options=MappingProxyType({"eval_split": "test", "num_train": None, "num_test": None}),
            needs_files=True,
        ),
        "synthetic": Dataset(
            load="synthetic:load_synthetic",
            label="synthetic shapes",
            description="built-in drawings of ten shapes and textures, made on the spot; no files needed",
            options=MappingProxyType({"num_train": 10_000, "num_test": 2_000, "seed": 0}),
            needs_files=False,
        ),
    }
)


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
    if name not in DATASETS:
        raise UnknownNameError("dataset", name, DATASETS)
    entry = DATASETS[name]
    for option in options:
        if option not in entry.options:
            raise UnknownNameError(f"option of dataset {name!r}:", option, entry.options)
    module, _, function = entry.load.partition(":")
    load: Callable[..., ImageDataset] = getattr(importlib.import_module(f"normbench.data.{module}"), function)
    place = {"data_dir": data_dir} if entry.needs_files else {}
    return load(**place, **{**entry.options, **options})
