"""CIFAR on disk: the three forms it comes in, each read and checked, and one of them written."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import math
import os
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from normbench.data.images import IMAGE_SHAPE, image_digests
from normbench.data.official import CIFAR10, Official
from normbench.errors import DataError, FolderError
from normbench.runs.atomic import write_atomically
from normbench.runs.regular_files import open_regular

NUM_TRAIN, NUM_TEST = 50_000, 10_000

REMEDY = "Delete it and run `normbench data fetch`, or `normbench data import PATH` from a good copy."


class Arrays(NamedTuple):
    """A data set: uint8 RGB images ``(N, 32, 32, 3)``, or another square, and int64 labels ``(N,)``."""

    x_train: NDArray[np.uint8]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.int64]


def format_name(path: Path, official: Official = CIFAR10) -> str:
    """Return which of the accepted forms `path` has, by its name: ``npz``, ``tar.gz`` or ``batches``.

    Raises:
        DataError: none of them.
    """
    if os.path.isdir(path):
        if path.name == official.batches_folder:
            return "batches"
    elif path.name.endswith((".tar.gz", ".tgz")):
        return "tar.gz"
    elif path.suffix == ".npz":
        return "npz"
    raise DataError(
        f"{path}: not a form of {official.label}. "
        f"Allowed: an .npz, the official .tar.gz, a folder {official.batches_folder}"
    )


def read_arrays(path: Path, official: Official = CIFAR10) -> Arrays:
    """Read CIFAR-10, or CIFAR-100, from an npz, the official archive, or the folder inside it.

    Raises:
        DataError: the file cannot be read, is damaged, or is not this data set.
    """
    readers: dict[str, Callable[[Path, Official], Arrays]] = {
        "npz": _read_npz,
        "tar.gz": _read_archive,
        "batches": _read_batches,
    }
    return readers[format_name(path, official)](path, official)


def write_npz(arrays: Arrays, folder: Path, official: Official = CIFAR10) -> Path:
    """Write ``cifar10.npz``, or ``cifar100.npz``, into `folder` (made if absent), whole or not at all; return its path.

    Raises:
        DataError: the disk is full.
        FolderError: the folder cannot be written.
    """
    target = folder / official.npz_file
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Uncompressed: 184 MB, but read in a fraction of a second.
        write_atomically(target, lambda file: np.savez(file, **arrays._asdict()))
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
    with open_regular(path) as file:
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


def _read_npz(path: Path, official: Official) -> Arrays:
    """Read the data set from an npz."""
    arrays = read_npz_arrays(path, partial(_check_header, official), f". {REMEDY}")
    return Arrays(
        np.ascontiguousarray(arrays["x_train"]),
        _checked_labels(path, official, "y_train", arrays["y_train"], NUM_TRAIN),
        np.ascontiguousarray(arrays["x_test"]),
        _checked_labels(path, official, "y_test", arrays["y_test"], NUM_TEST),
    )


class NpzProblem(Exception):
    """What is wrong with an array of an npz, in words."""


CheckHeader = Callable[[str, "np.dtype[Any]", tuple[int, ...]], None]
"""Takes name, dtype and shape of an array, and raises `NpzProblem` unless they are as they must be."""


def read_npz_arrays(path: Path, check_header: CheckHeader, remedy: str = "") -> dict[str, NDArray[Any]]:
    """Read the arrays of `Arrays` from an npz; each is checked by its header before memory is taken for it.

    Raises:
        DataError: it cannot be read, lacks one, or holds other arrays; the message ends in `remedy`.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(_ShortReads(file)) as archive:
            names = set(archive.namelist())
            if missing := [name for name in Arrays._fields if f"{name}.npy" not in names]:
                raise NpzProblem(f"no {', '.join(missing)} in it")
            return {name: _read_member(archive, name, check_header) for name in Arrays._fields}
    except NpzProblem as problem:
        raise DataError(f"{path}: {problem}{remedy}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # NumPy's parser of headers lets through whatever Python's own raises
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise DataError(f"{path}: damaged or not an npz of plain arrays ({reason}){remedy}") from error


class _ShortReads(io.RawIOBase):
    """A file read in short pieces only: zipfile reads a table of contents at once, as long as it says it is."""

    MAX_BYTES = 1 << 20

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        if size > self.MAX_BYTES:
            raise ValueError(f"a table of contents of {size:,} bytes")
        return self._file.read(size if size >= 0 else self.MAX_BYTES)


def _read_member(archive: zipfile.ZipFile, name: str, check_header: CheckHeader) -> NDArray[Any]:
    """Read one array; its header is checked before memory is taken for its data."""
    member = archive.getinfo(f"{name}.npy")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # NumPy writes no others
        raise ValueError(f"{name} is compressed by method {member.compress_type}")
    with archive.open(member) as file:
        head = io.BytesIO(file.read(4096))
        shape, is_fortran, dtype = _read_header(head)
        check_header(name, dtype, shape)
        array = np.empty(math.prod(shape), dtype)
        if member.file_size != head.tell() + array.nbytes:
            raise ValueError(f"{name} has {member.file_size:,} bytes, not {head.tell() + array.nbytes:,}")
        content = array.view(np.uint8).data
        done = head.readinto(content)
        while done < len(content):
            if not (piece := file.read(min(len(content) - done, _ShortReads.MAX_BYTES))):
                raise ValueError(f"{name} is cut short")
            content[done : done + len(piece)] = piece
            done += len(piece)
        file.read(1)  # the checksum is compared at the end
    return array.reshape(shape, order="F" if is_fortran else "C")


def _read_header(head: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(head)
    if version not in readers:
        raise ValueError(f"an array in version {version} of npy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python, about the syntax of damaged headers
        return readers[version](head)


def _check_header(official: Official, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    num_images = NUM_TRAIN if name.endswith("train") else NUM_TEST
    if name.startswith("x"):
        wanted = (num_images, *IMAGE_SHAPE)
        if dtype != np.uint8 or shape != wanted:
            raise NpzProblem(f"not {official.label}: {name} is {dtype} {shape}, not uint8 {wanted}")
    elif dtype.kind not in "iu" or shape not in ((num_images,), (num_images, 1)):
        raise NpzProblem(f"not {official.label}: {name} is {dtype} {shape}, not integers ({num_images},)")


def _checked_labels(
    path: Path, official: Official, name: str, labels: NDArray[Any], num_images: int
) -> NDArray[np.int64]:
    label, num_classes = official.label, official.num_classes
    if labels.min() < 0 or labels.max() >= num_classes:
        raise _damaged(
            path, f"not {label}: {name} holds labels {labels.min()} to {labels.max()}, not 0 to {num_classes - 1}"
        )
    labels = labels.reshape(-1).astype(np.int64)
    class_sizes = np.bincount(labels, minlength=num_classes)
    if (class_sizes != num_images // num_classes).any():
        raise _damaged(
            path,
            f"not {label}: {name} has {class_sizes.min():,} to {class_sizes.max():,} images per class, "
            f"not {num_images // num_classes:,} of each",
        )
    return labels


def _read_batches(folder: Path, official: Official, archive: Path | None = None) -> Arrays:
    """Read the official folder through torchvision, which unpickles nothing whose MD5 is not the official one.

    Errors name the archive that the folder comes from, if any.
    """
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity

    reader = getattr(datasets, official.torchvision_class)
    files = (*reader.train_list, *reader.test_list, (reader.meta["filename"], reader.meta["md5"]))
    for name, _ in files:
        if not os.path.isfile(folder / name):
            raise _damaged(archive or folder, f"incomplete: {name} is missing")
        if (num_bytes := os.path.getsize(folder / name)) > official.max_file_bytes:
            raise _damaged(archive or folder, f"damaged: {name} has {num_bytes:,} bytes")
    try:
        with warnings.catch_warnings():
            # The official pickles date from 2009; NumPy 2.4.0 to 2.4.4 complain about how they spell a dtype.
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            train, test = (reader(folder.parent, train=train) for train in (True, False))
        return Arrays(
            np.ascontiguousarray(train.data),
            np.array(train.targets, np.int64),
            np.ascontiguousarray(test.data),
            np.array(test.targets, np.int64),
        )
    except Exception as error:
        with contextlib.suppress(OSError):
            for name, md5 in files:
                if not check_integrity(folder / name, md5):
                    raise _damaged(archive or folder, f"damaged: {name} has the wrong MD5") from error
        raise _damaged(archive or folder, f"cannot be read ({error})") from error


def _read_archive(path: Path, official: Official) -> Arrays:
    """Unpack the official archive into a temporary folder and read that."""
    try:
        num_bytes = path.stat().st_size
        if num_bytes != official.archive_bytes:
            raise _damaged(
                path,
                f"{num_bytes:,} bytes instead of {official.archive_bytes:,}: truncated, or not the official archive",
            )
        if (md5 := file_md5(path)) != official.archive_md5:
            raise _damaged(path, f"damaged: its MD5 is {md5} instead of {official.archive_md5}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    scratch_root = Path(tempfile.gettempdir())
    with (
        explain_write_errors(scratch_root, "set TMPDIR to another folder"),
        tempfile.TemporaryDirectory(prefix="normbench-") as scratch,
    ):
        folder = Path(scratch, official.batches_folder)
        folder.mkdir()
        for name, content in _archived_files(path, official):
            (folder / name).write_bytes(content)
        return _read_batches(folder, official, path)


def _archived_files(path: Path, official: Official) -> Iterator[tuple[str, bytes]]:
    """Yield the official files in an archive: plain ones of known names, so that no member can lead elsewhere."""
    from torchvision import datasets

    reader = getattr(datasets, official.torchvision_class)
    wanted = {name for name, _ in (*reader.train_list, *reader.test_list)} | {reader.meta["filename"]}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                parent, _, name = member.name.rpartition("/")
                if parent != official.batches_folder or name not in wanted or not member.isreg():
                    continue
                if member.size > official.max_file_bytes:
                    raise _damaged(path, f"damaged: {name} in it has {member.size:,} bytes")
                content = archive.extractfile(member)
                assert content is not None
                yield name, content.read()
    except DataError:
        raise
    except Exception as error:
        raise _damaged(path, f"damaged: cannot be unpacked ({error})") from error
