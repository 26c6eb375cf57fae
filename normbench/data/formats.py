"""CIFAR-10 on disk: the three forms it comes in, each read and checked, and one of them written."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from normbench.data.images import IMAGE_SHAPE, image_digests
from normbench.data.locate import BATCHES_FOLDER, NPZ_FILE
from normbench.errors import DataError, FolderError

ARCHIVE_BYTES = 170_498_071
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
NUM_CLASSES = 10
NUM_TRAIN, NUM_TEST = 50_000, 10_000

REMEDY = "Delete it and run `normbench data fetch`, or `normbench data import PATH` from a good copy."


class Arrays(NamedTuple):
    """CIFAR-10: uint8 RGB images ``(N, 32, 32, 3)`` and int64 labels ``(N,)``."""

    x_train: NDArray[np.uint8]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.int64]


def format_name(path: Path) -> str:
    """Return which of the accepted forms `path` has, by its name: ``npz``, ``tar.gz`` or ``batches``.

    Raises:
        DataError: none of them.
    """
    if path.is_dir():
        if path.name == BATCHES_FOLDER:
            return "batches"
    elif path.name.endswith((".tar.gz", ".tgz")):
        return "tar.gz"
    elif path.suffix == ".npz":
        return "npz"
    raise DataError(
        f"{path}: not a form of CIFAR-10. Allowed: an .npz, the official .tar.gz, a folder {BATCHES_FOLDER}"
    )


def read_arrays(path: Path) -> Arrays:
    """Read CIFAR-10 from an npz, the official archive, or the folder inside it.

    Raises:
        DataError: the file cannot be read, is damaged, or is not CIFAR-10.
    """
    readers = {"npz": _read_npz, "tar.gz": _read_archive, "batches": _read_batches}
    return readers[format_name(path)](path)


def write_npz(arrays: Arrays, folder: Path) -> Path:
    """Write ``cifar10.npz`` into `folder` (made if absent), whole or not at all, and return its path.

    Raises:
        DataError: the disk is full.
        FolderError: the folder cannot be written.
    """
    target = folder / NPZ_FILE
    partial = folder / f".{NPZ_FILE}.{os.getpid()}.partial"
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                np.savez(file, **arrays._asdict())  # uncompressed: 184 MB, but read in a fraction of a second
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    return target


@contextlib.contextmanager
def explain_write_errors(folder: Path, way_out: str = "name another --data-dir") -> Iterator[None]:
    """Turn a full disk into `DataError` and any other failure to write into `FolderError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"{folder}: the disk is full. Free about 400 MB, or {way_out}.") from error
        raise FolderError(
            f"{folder}: cannot be written: {error.strerror or error}. Make it writable, or {way_out}."
        ) from error


def file_md5(path: Path) -> str:
    """Return the MD5 of a file in hexadecimal: it tells damage, not malice."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def fingerprint(arrays: Arrays) -> str:
    """Return a SHA-256 of the images with their labels: the same for every form and order they are stored in."""
    digest = hashlib.sha256()
    for images, labels in ((arrays.x_train, arrays.y_train), (arrays.x_test, arrays.y_test)):
        pairs = zip(image_digests(images), labels.tolist(), strict=True)
        digest.update(b"".join(sorted(image + bytes([label]) for image, label in pairs)))
    return digest.hexdigest()


def _damaged(path: Path, what: object) -> DataError:
    return DataError(f"{path}: {what}. {REMEDY}")


def _read_npz(path: Path) -> Arrays:
    try:
        with path.open("rb") as file:  # opened here: np.load leaves a damaged file open
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            if missing := set(Arrays._fields) - set(archive.files):
                raise _damaged(path, f"not CIFAR-10: no {', '.join(sorted(missing))} in it")
            arrays = {name: archive[name] for name in Arrays._fields}
    except (OSError, EOFError, ValueError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        raise _damaged(
            path, f"damaged or not an npz of plain arrays ({str(error).rstrip('.') or type(error).__name__})"
        ) from error
    return Arrays(
        _checked_images(path, "x_train", arrays["x_train"], NUM_TRAIN),
        _checked_labels(path, "y_train", arrays["y_train"], NUM_TRAIN),
        _checked_images(path, "x_test", arrays["x_test"], NUM_TEST),
        _checked_labels(path, "y_test", arrays["y_test"], NUM_TEST),
    )


def _checked_images(path: Path, name: str, images: NDArray[Any], num_images: int) -> NDArray[np.uint8]:
    shape = (num_images, *IMAGE_SHAPE)
    if images.dtype != np.uint8 or images.shape != shape:
        raise _damaged(path, f"not CIFAR-10: {name} is {images.dtype} {images.shape}, not uint8 {shape}")
    return np.ascontiguousarray(images)


def _checked_labels(path: Path, name: str, labels: NDArray[Any], num_images: int) -> NDArray[np.int64]:
    if labels.dtype.kind not in "iu" or labels.shape not in ((num_images,), (num_images, 1)):
        raise _damaged(path, f"not CIFAR-10: {name} is {labels.dtype} {labels.shape}, not integers ({num_images},)")
    if labels.min() < 0 or labels.max() >= NUM_CLASSES:
        raise _damaged(
            path, f"not CIFAR-10: {name} holds labels {labels.min()} to {labels.max()}, not 0 to {NUM_CLASSES - 1}"
        )
    labels = labels.reshape(-1).astype(np.int64)
    class_sizes = np.bincount(labels, minlength=NUM_CLASSES)
    if (class_sizes != num_images // NUM_CLASSES).any():
        raise _damaged(
            path,
            f"not CIFAR-10: {name} has {class_sizes.min():,} to {class_sizes.max():,} images a class, "
            f"not {num_images // NUM_CLASSES:,} of each",
        )
    return labels


def _read_batches(folder: Path) -> Arrays:
    """Read the official folder through torchvision, which unpickles nothing whose MD5 is not the official one."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    try:
        with warnings.catch_warnings():
            # The official pickles date from 2009; NumPy 2.4.0 to 2.4.4 complain about how they spell a dtype.
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            train, test = (CIFAR10(folder.parent, train=train) for train in (True, False))
    except (RuntimeError, OSError) as error:
        meta = (CIFAR10.meta["filename"], CIFAR10.meta["md5"])
        for name, md5 in (*CIFAR10.train_list, *CIFAR10.test_list, meta):
            if not (folder / name).is_file():
                raise _damaged(folder, f"incomplete: {name} is missing") from error
            if not check_integrity(folder / name, md5):
                raise _damaged(folder, f"damaged: {name} has the wrong MD5") from error
        raise _damaged(folder, f"cannot be read ({error})") from error
    return Arrays(
        np.ascontiguousarray(train.data),
        np.array(train.targets, np.int64),
        np.ascontiguousarray(test.data),
        np.array(test.targets, np.int64),
    )


def _read_archive(path: Path) -> Arrays:
    """Unpack the official archive into a temporary folder and read that."""
    from torchvision.datasets import CIFAR10

    try:
        num_bytes = path.stat().st_size
        if num_bytes != ARCHIVE_BYTES:
            raise _damaged(
                path, f"{num_bytes:,} bytes instead of {ARCHIVE_BYTES:,}: truncated, or not the official archive"
            )
        if (md5 := file_md5(path)) != ARCHIVE_MD5:
            raise _damaged(path, f"damaged: its MD5 is {md5} instead of {ARCHIVE_MD5}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    wanted = {name for name, _ in (*CIFAR10.train_list, *CIFAR10.test_list)} | {CIFAR10.meta["filename"]}
    scratch_root = Path(tempfile.gettempdir())
    with (
        explain_write_errors(scratch_root, "set TMPDIR to another folder"),
        tempfile.TemporaryDirectory(prefix="normbench-") as scratch,
    ):
        folder = Path(scratch, BATCHES_FOLDER)
        folder.mkdir()
        with tarfile.open(path) as archive:
            # Only plain files of known names are written, under those names, so that no member can lead elsewhere.
            for member in archive:
                parent, _, name = member.name.rpartition("/")
                content = archive.extractfile(member) if parent == BATCHES_FOLDER and name in wanted else None
                if content is not None:
                    with (folder / name).open("wb") as file:
                        shutil.copyfileobj(content, file)
        return _read_batches(folder)
