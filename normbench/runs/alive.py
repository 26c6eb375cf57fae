"""Whether a process still writes a run's folder, or a file."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO

from normbench.runs.regular_files import open_regular


def is_being_written(lock_file: Path, pid: int) -> bool:
    """Return whether a run, or a file, is written: its process `pid` lives here, or another place's holds its lock."""
    return is_alive(pid) or _is_held(lock_file)


def is_alive(pid: int) -> bool:
    """Return whether there is a process of that number; where the system cannot be asked, there is."""
    if sys.platform == "win32":
        return True  # there, to signal 0 would end the process
    if pid <= 0:
        return False  # a group of processes, for `kill`
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _is_held(lock_file: Path) -> bool:
    """Return whether another process holds the lock, which is not taken from it, nor kept."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        with open_regular(lock_file) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def hold(file: IO[bytes]) -> None:
    """Lock a file that is being written, until it is closed or this process ends, where the file system has locks."""
    if sys.platform == "win32":
        return
    import fcntl

    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
