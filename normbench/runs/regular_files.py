"""Opens files that anybody may have put in the place of a record, and says in a line what is wrong with one."""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path

from normbench.errors import RunError


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading, without waiting for a writer as a named pipe would.

    Raises:
        OSError: it cannot be opened, or is a device, a pipe or a folder.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(None, "not a regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def damaged(path: Path, reason: str) -> RunError:
    """Return the error that says what is wrong with a file, in a line."""
    return RunError(f"{path}: cannot be read: {' '.join(reason.split())}")
