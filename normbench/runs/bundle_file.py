"""Reads a bundle (docs/bundles.md) as if it were a folder: ``x.nbz/x/<run>/steps.csv`` is a file in it.

A bundle is a zip that anybody may have made. Its table of contents is checked before any member is read, and each
member against SHA256SUMS when it is read. Nothing is ever unpacked onto the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from weakref import finalize

from normbench.runs.regular_files import damaged, open_regular

try:
    from lzma import LZMAError
except ImportError:  # a Python without liblzma, in which `zipfile` says so of the first member that needs it
    LZMAError = ValueError  # type: ignore[assignment,misc]

SUFFIX = ".nbz"
MANIFEST_FILE = "bundle.json"
SUMS_FILE = "SHA256SUMS"
FORMAT = "normbench bundle"
FORMAT_VERSION = 2
"""The latest format that can be read. In format 2 members may be compressed by LZMA, too."""

MAX_FILES = 65_535
"""What a zip of the original format can hold: no bundle needs the extension for larger ones, and none may have it."""
MAX_BUNDLE_BYTES = 512 * 2**20
MAX_CONTENTS_BYTES = 16 * 2**20
"""The most bytes of the table of contents, which is read whole."""
MAX_MEMBER_BYTES = 128 * 2**20
MAX_TOTAL_BYTES = 2 * 2**30
MAX_RATIO = 200
"""How much larger than its compressed form a member of more than `_RATIO_FREE_BYTES` may be."""
_RATIO_FREE_BYTES = 2**20
MAX_DICTIONARY_BYTES = 16 * 2**20
"""The most memory that a member may ask for to be decompressed by LZMA; twice what `zipfile` writes."""
_MAX_NAME_LENGTH = 200

_PART = re.compile(r"[A-Za-z0-9._+-]+")
_SUM = re.compile(r"([0-9a-f]{64})  (\S+)")
_ZIP, _END, _END_64 = b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x07"
_READING_ERRORS = (zipfile.BadZipFile, zlib.error, LZMAError, EOFError, OSError, ValueError, RuntimeError, struct.error)
"""What `zipfile` raises over a damaged file; NotImplementedError is a RuntimeError."""


class Place(NamedTuple):
    """A path into a bundle."""

    bundle: Bundle
    name: str
    """The member or folder in it, with ``/``; empty for the whole."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """An open bundle, whose table of contents has been checked."""

    path: Path
    archive: zipfile.ZipFile
    sums: Mapping[str, str]
    """SHA-256 of each member but `SUMS_FILE`."""
    manifest: Mapping[str, Any]
    """What `MANIFEST_FILE` says."""

    @property
    def names(self) -> list[str]:
        """All members, by name."""
        return sorted(self.archive.namelist())

    def read(self, name: str, limit: int = MAX_MEMBER_BYTES) -> bytes:
        """Return a member's content, of at most `limit` bytes.

        Raises:
            RunError: there is none of that name, it is larger, or it is not what `SUMS_FILE` says.
        """
        content = _read(self.path, self.archive, name, limit)
        if name != SUMS_FILE and hashlib.sha256(content).hexdigest() != self.sums[name]:
            raise damaged(self.path / name, f"it was altered: its SHA-256 is not the one in {SUMS_FILE}")
        return content

    def folders_with(self, file: str, below: str, *, is_deep: bool) -> list[Path]:
        """Return the folders in `below`, or anywhere under it if `is_deep`, that hold a member called `file`."""
        folders = {PurePosixPath(name).parent for name in self.names if PurePosixPath(name).name == file}
        start = PurePosixPath(below)
        found = (folder for folder in folders if folder.is_relative_to(start))
        return sorted(self.path / folder for folder in found if is_deep or folder.parent == start != folder)


def find_bundle(path: Path) -> Place | None:
    """Return where in a bundle `path` leads; None where neither it nor a folder above it is a zip.

    Raises:
        RunError: it is a zip, and no bundle that can be read.
    """
    for parent in (path, *path.parents):
        if os.path.isfile(parent):
            name = "" if parent == path else path.relative_to(parent).as_posix()
            return Place(open_bundle(parent), name) if _is_zip(parent) else None
        if os.path.lexists(parent):
            return None
    return None


def exists(path: Path) -> bool:
    """Return whether there is something at `path`, on the disk or in a bundle.

    Raises:
        RunError: it leads into a bundle that cannot be read.
    """
    return os.path.lexists(path) or is_member(path)


def is_member(path: Path) -> bool:
    """Return whether `path` names a file in a bundle.

    Raises:
        RunError: it leads into a bundle that cannot be read.
    """
    if os.path.isdir(os.path.dirname(path)):
        return False  # what lies in a bundle has no folder on the disk; ten thousand runs notice
    place = find_bundle(path)
    return place is not None and place.name in place.bundle.archive.NameToInfo


def open_bundle(path: Path) -> Bundle:
    """Open a bundle; one that has not changed since it was opened is not opened twice.

    Raises:
        RunError: it cannot be read, is no bundle, or of a later format.
    """
    try:
        state = os.stat(path)
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from None
    return _open(path, (state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=8)
def _open(path: Path, _state: tuple[int, int, int]) -> Bundle:
    try:
        file = open_regular(path)
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from None
    try:
        _check_ends(file)
        archive = zipfile.ZipFile(file)
        _check_contents(archive.infolist(), archive.start_dir)
        manifest = _manifest(_read(path, archive, MANIFEST_FILE, 2**20))
        sums = _sums(_read(path, archive, SUMS_FILE, MAX_CONTENTS_BYTES).decode("ascii"))
        _check_complete(sums, archive.namelist())
    except _READING_ERRORS as error:
        file.close()
        raise damaged(path, str(error) or type(error).__name__) from None
    except BaseException:
        file.close()
        raise
    bundle = Bundle(path, archive, sums, manifest)
    finalize(bundle, file.close)
    return bundle


def _is_zip(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            return file.read(4) == _ZIP
    except OSError:
        return False


def _check_ends(file: BufferedReader) -> None:
    """Raise `ValueError` unless the file is a zip of bounded size whose table of contents is of bounded size, too."""
    size = os.fstat(file.fileno()).st_size
    if size > MAX_BUNDLE_BYTES:
        raise ValueError(f"larger than the {MAX_BUNDLE_BYTES:,} bytes that a bundle may have")
    end = b""
    if size >= 22:
        file.seek(-22, os.SEEK_END)  # a bundle has no comment, so that its end is at its end
        end = file.read(22)
    if not end.startswith(_END):
        raise ValueError("its end is missing: it was cut off, or is no bundle")
    num_files, contents_size, contents_start = struct.unpack("<HII", end[10:20])
    if contents_size > MAX_CONTENTS_BYTES:
        raise ValueError(f"a table of contents of more than {MAX_CONTENTS_BYTES:,} bytes")
    if contents_start + contents_size + 22 != size:
        raise ValueError("bytes before, between or behind what a bundle consists of")
    if num_files == 0:
        raise ValueError("it is empty")
    file.seek(max(0, size - 42))
    if file.read(4) == _END_64:
        raise ValueError("a zip in the format for very large files, which no bundle is")
    file.seek(0)


def _check_contents(members: Sequence[zipfile.ZipInfo], data_size: int) -> None:
    """Raise `ValueError` where a member is none that a bundle has: by name, kind, form or size.

    All members lie in the first `data_size` bytes. Who reads one gets memory for as many bytes as it says it has there,
    before any are read.
    """
    if len(members) > MAX_FILES:
        raise ValueError(f"more than {MAX_FILES:,} members")
    seen: dict[str, str] = {}
    total = 0
    for member in members:
        name = member.orig_filename
        _check_name(name)
        folded = name.casefold()
        if folded in seen:
            raise ValueError(f"two members of one name, {seen[folded]} and {name}")
        seen[folded] = name
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise ValueError(f"{name} is {'a symbolic link' if stat.S_ISLNK(kind) else 'no regular file'}")
        if member.flag_bits & 1:
            raise ValueError(f"{name} is encrypted")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
            raise ValueError(f"{name} is compressed in another way than a bundle's members")
        if member.compress_size > data_size:
            raise ValueError(f"{name} would have more bytes than the bundle")
        if member.file_size > MAX_MEMBER_BYTES:
            raise ValueError(f"{name} has more than {MAX_MEMBER_BYTES:,} bytes")
        if member.file_size > max(_RATIO_FREE_BYTES, MAX_RATIO * member.compress_size):
            raise ValueError(f"{name} is more than {MAX_RATIO} times as large as its compressed form")
        total += member.file_size
    if total > MAX_TOTAL_BYTES:
        raise ValueError(f"unpacked it has more than {MAX_TOTAL_BYTES:,} bytes")
    for name in seen:
        for parent in PurePosixPath(name).parents:
            if str(parent) in seen:
                raise ValueError(f"{seen[str(parent)]} is a file and a folder")


def _check_name(name: str) -> None:
    if len(name) > _MAX_NAME_LENGTH or not all(_PART.fullmatch(part) and part.strip(".") for part in name.split("/")):
        raise ValueError(f"a member called {name[:_MAX_NAME_LENGTH]!a}, which is no name of a file in a bundle")


def _manifest(content: bytes) -> Mapping[str, Any]:
    try:
        manifest = json.loads(content)
    except RecursionError:
        raise ValueError(f"{MANIFEST_FILE} is nested too deep") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"no bundle of NormBench, as {MANIFEST_FILE} would say")
    version = manifest.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"{MANIFEST_FILE} names no version of the format")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"a bundle of format {version}, written by a later NormBench; this one reads up to format {FORMAT_VERSION}"
        )
    return manifest


def _sums(text: str) -> dict[str, str]:
    """Return the SHA-256 by name of what `sha256sum` writes."""
    sums: dict[str, str] = {}
    for line in text.splitlines():
        found = _SUM.fullmatch(line)
        if not found or found[2] in sums:
            raise ValueError(f"{SUMS_FILE} has a line that is no checksum, or one twice")
        sums[found[2]] = found[1]
    return sums


def _check_complete(sums: Mapping[str, str], names: Iterable[str]) -> None:
    there = set(names) - {SUMS_FILE}
    if missing := sorted(sums.keys() - there):
        raise ValueError(f"{_some(missing)} missing, though {SUMS_FILE} lists it")
    if unlisted := sorted(there - sums.keys()):
        raise ValueError(f"{_some(unlisted)} in it, though {SUMS_FILE} does not list it")


def _some(names: list[str]) -> str:
    return f"{names[0]} is" if len(names) == 1 else f"{names[0]} and {len(names) - 1} more are"


def _read(path: Path, archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Return a member's content of at most `limit` bytes; raise `RunError` where there is none."""
    try:
        member = archive.getinfo(name)
    except KeyError:
        raise damaged(path / name, "no such file in the bundle") from None
    if member.file_size > limit:
        raise damaged(path / name, f"larger than the {limit:,} bytes that it may have")
    try:
        if member.compress_type == zipfile.ZIP_LZMA:
            _check_dictionary(archive, member)
        with archive.open(member) as file:  # which yields no more bytes than the table of contents says
            return file.read()
    except _READING_ERRORS as error:
        raise damaged(path / name, str(error) or type(error).__name__) from None


def _check_dictionary(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Raise `ValueError` where decompressing a member by LZMA would take more memory than it may.

    The member itself says how much, up to 4 GiB, in the nine bytes before its data: the version of LZMA, the length of
    its properties, and these, which end in the size of the dictionary (APPNOTE.TXT of PKWARE, 5.8.8).
    """
    file = archive.fp
    assert file is not None  # the archive is open
    file.seek(member.header_offset + 26)
    lengths = struct.unpack("<HH", file.read(4))  # of the name and of the extra field
    file.seek(sum(lengths), os.SEEK_CUR)
    (size,) = struct.unpack("<5xI", file.read(9))
    if size > MAX_DICTIONARY_BYTES:
        raise ValueError(f"more than the {MAX_DICTIONARY_BYTES:,} bytes of memory that its decompression may take")
