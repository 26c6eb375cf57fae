"""CIFAR-10 and CIFAR-100: 60,000 colour photographs of 32x32 pixels each, in ten and in a hundred classes.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

import os
from pathlib import Path

from normbench.data.formats import NUM_TEST, NUM_TRAIN, Arrays, format_name, read_arrays, write_npz
from normbench.data.images import EvalSplit, ImageDataset, check_count, first_images, hold_out
from normbench.data.locate import Place, find_cifar
from normbench.data.official import CIFAR10, CIFAR100, Official
from normbench.errors import DataError, UnknownNameError

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

CHANNEL_MEAN = (0.4914, 0.4822, 0.4465)
"""``x_train.mean(axis=(0, 1, 2)) / 255``, to four places. For reading only: training uses Normalize(0.5, 0.5)."""
CHANNEL_STD = (0.2470, 0.2435, 0.2616)
"""``x_train.std(axis=(0, 1, 2)) / 255``, to four places: over all pixels of all training images."""

SHA256 = "a79785bd9f0b9ae39cd7067b166097d5d3f7248c9751bf2c8c8ed449a28f4147"
"""`formats.fingerprint` of CIFAR-10."""

# fmt: off
CIFAR100_CLASS_NAMES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
    "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
    "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
    "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
    "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
    "willow_tree", "wolf", "woman", "worm",
)
# fmt: on
"""The fine labels, in the order of the official file, which is the alphabet's."""

NUM_VAL = 5_000


def class_names(official: Official) -> tuple[str, ...]:
    """Return the names of a data set's classes, by label."""
    return CLASS_NAMES if official.num_classes == 10 else CIFAR100_CLASS_NAMES


def load_cifar100(
    data_dir: Path | None = None,
    *,
    eval_split: EvalSplit = "test",
    num_train: int | None = None,
    num_test: int | None = None,
) -> ImageDataset:
    """Load CIFAR-100 with its hundred fine labels; see `load_cifar10`."""
    return _load(CIFAR100, data_dir, eval_split, num_train, num_test)


def load_cifar10(
    data_dir: Path | None = None,
    *,
    eval_split: EvalSplit = "test",
    num_train: int | None = None,
    num_test: int | None = None,
) -> ImageDataset:
    """Load CIFAR-10 from where `locate.find_cifar` finds it.

    Args:
        data_dir: the only folder to look in, if given.
        eval_split: ``test``: train on 50,000, evaluate on the 10,000 test images. ``val``: train on 45,000 and evaluate
            on the other 5,000 training images, 500 a class and the same ones always; the test images are not used.
        num_train: take only so many training images, equally many of each class (give or take one) and always the same.
        num_test: the same for the images evaluated on.

    Raises:
        ConfigError: an option's value is not allowed.
        DataError: CIFAR-10 is missing or damaged.
    """
    return _load(CIFAR10, data_dir, eval_split, num_train, num_test)


def _load(
    official: Official, data_dir: Path | None, eval_split: EvalSplit, num_train: int | None, num_test: int | None
) -> ImageDataset:
    if eval_split not in ("test", "val"):
        raise UnknownNameError(f"eval_split of dataset {official.key!r}", eval_split, ("test", "val"))
    uses_val = eval_split == "val"
    for option, count, maximum in (
        ("num_train", num_train, NUM_TRAIN - NUM_VAL if uses_val else NUM_TRAIN),
        ("num_test", num_test, NUM_VAL if uses_val else NUM_TEST),
    ):
        if count is not None:
            check_count(option, count, maximum)

    path = find_cifar(data_dir, official)
    arrays = read_arrays(path, official)
    if uses_val:
        arrays = Arrays(*hold_out(arrays.x_train, arrays.y_train, NUM_VAL))
    arrays = Arrays(*first_images(*arrays, num_train, num_test))
    return ImageDataset(
        name=official.key,
        **arrays._asdict(),
        class_names=class_names(official),
        source=f"{path} ({format_name(path, official)})",
        is_synthetic=False,
        eval_split=eval_split,
    )


def import_cifar(path: Path, folder: Path, official: Official = CIFAR10) -> Path:
    """Check the copy of a data set at `path` and write it to `folder` as ``cifar10.npz``; return where it is now.

    Args:
        path: an npz, the official archive, the folder in it, or a folder that holds one of them.
        folder: made if absent.
        official: the data set.

    Raises:
        DataError: there is no such copy, it is damaged, or the disk is full.
        FolderError: `folder` cannot be written.
    """
    if os.path.isdir(path) and path.name != official.batches_folder:
        found = Place("PATH", path, is_explicit=True).find(official)
        if found is None:
            raise DataError(f"{path}: no {official.label} in this folder. Allowed: {', '.join(official.accepted)}")
        path = found
    if not os.path.exists(path):
        raise DataError(f"{path}: no such file or folder")
    return write_npz(read_arrays(path, official), folder, official)
