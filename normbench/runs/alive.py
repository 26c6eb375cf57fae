"""Whether a process still writes a run's folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from normbench.runs.regular_files import open_regular


def is_being_written(lock_file: Path, pid: int) -> bool:
    """Return whether a run is written: its process `pid` lives on this machine, or its lock is held from another."""
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
