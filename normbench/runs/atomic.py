"""Whole files or none: a reader sees the old file or the new one, never a part."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import BinaryIO

from normbench.runs.alive import hold, is_being_written

PARTIAL_FILES = ".*.partial"
"""The pattern of what a killed process leaves of a file that it was writing."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace `path` by what `write` puts into the open binary file that it is given.

    What killed processes left half written of the same file is removed (`remove_left`).

    Raises:
        OSError: the file cannot be written; what was there before stays.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    remove_left(path.parent, f"{escape(f'.{path.name}.')}*.partial")
    try:
        with partial.open("wb") as file:
            hold(file)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def remove_left(folder: Path, pattern: str = PARTIAL_FILES) -> None:
    """Remove the files under `folder` that match `pattern` and that a process which is gone left half written."""
    for path in folder.glob(pattern):
        pid = path.name.split(".")[-2]
        if not is_being_written(path, int(pid) if pid.isdecimal() else 0):
            with suppress(OSError):
                path.unlink()


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`.

    Raises:
        OSError: the file cannot be written; what was there before stays.
    """
    write_atomically(path, lambda file: file.write(content))


def write_text_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text` in UTF-8.

    Raises:
        OSError: the file cannot be written; what was there before stays.
    """
    write_bytes_atomically(path, text.encode())
