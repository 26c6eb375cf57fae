"""Files on a node while a session runs there: what runs need and write, and shipped data. All of it goes again."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from filelock import FileLock, Timeout

Files = Mapping[str, bytes]
"""The contents of files by their names, without folders."""
_PREFIX = "normbench-cluster"
_LOCK = ".lock"


class NodeFolder:
    """A host's folder on its node, ``normbench-cluster-UID/SESSION-NAME`` in ``/tmp`` or ``TMPDIR``.

    It is held by a lock as long as the host lives.
    """

    def __init__(self, session: str, name: str) -> None:
        above = Path(gettempdir()) / f"{_PREFIX}-{os.getuid()}"
        above.mkdir(mode=0o700, exist_ok=True)
        if above.is_symlink() or above.stat().st_uid != os.getuid():
            raise PermissionError(f"{above} belongs to another user")
        self.path = above / f"{session}-{name}"
        self._lock = FileLock(self.path / _LOCK)
        with FileLock(above / _LOCK):  # or another host might take this one for abandoned
            _remove_abandoned(above)
            self.path.mkdir(mode=0o700)
            self._lock.acquire(timeout=0)
        self.data = above / f"{session}-data"

    def place(self, name: str, files: Files) -> Path:
        """Make a folder with these files, in place of one of that name, and return it."""
        folder = self.path / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        for file_name, content in files.items():
            (folder / file_name).write_bytes(content)
        return folder

    def place_data(self, name: str, content: Any) -> Path:
        """Write a data set's file, once for all hosts of the session on this node, and return the folder of data."""
        self.data.mkdir(mode=0o700, exist_ok=True)
        with FileLock(self.data / f".{name}.lock"):
            if not (self.data / name).exists():
                partial = self.data / f".{name}.partial"
                partial.write_bytes(content)
                partial.rename(self.data / name)
        return self.data

    def remove(self) -> None:
        """Remove the folder, and the data too if no other host of the session is left on the node."""
        self._lock.release()
        shutil.rmtree(self.path, ignore_errors=True)
        session = self.path.name.partition("-")[0]
        if not any(path != self.data for path in self.path.parent.glob(f"{session}-*")):
            shutil.rmtree(self.data, ignore_errors=True)


def _remove_abandoned(above: Path) -> None:
    """Remove folders of hosts that were killed: nobody holds their lock. Data of sessions without hosts goes too."""
    for lock in above.glob(f"*/{_LOCK}"):
        with suppress(Timeout, OSError), FileLock(lock).acquire(timeout=0):
            shutil.rmtree(lock.parent, ignore_errors=True)
    alive = {path.name.partition("-")[0] for path in above.iterdir() if (path / _LOCK).exists()}
    for data in above.glob("*-data"):
        if data.name.partition("-")[0] not in alive and time.time() - data.stat().st_mtime > 3600:
            shutil.rmtree(data, ignore_errors=True)


class Changes:
    """Finds which of a folder's files were written since they were last read."""

    def __init__(self, folder: Path, names: Collection[str]) -> None:
        self._folder = folder
        self._names = names
        self._seen = {name: self._state(name) for name in names}

    def read(self) -> dict[str, bytes]:
        """Return the files that changed; they are replaced at once by whoever writes them, and so read whole."""
        found = {}
        for name in self._names:
            state = self._state(name)
            if state is not None and state != self._seen[name]:
                self._seen[name] = state
                found[name] = (self._folder / name).read_bytes()
        return found

    def _state(self, name: str) -> tuple[int, int] | None:
        try:
            found = (self._folder / name).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns


def read_files(folder: Path) -> dict[str, bytes]:
    """Return a folder's plain files, without locks and what is half written."""
    return {
        path.name: path.read_bytes()
        for path in (folder.iterdir() if folder.is_dir() else ())
        if not path.name.startswith(".") and path.is_file() and not path.is_symlink()
    }


def paths_in(value: Any) -> set[Path]:
    """Return the paths among arguments: in sequences, and in fields of dataclasses."""
    if isinstance(value, Path):
        return {value}
    return {path for inner in _parts(value).values() for path in paths_in(inner)}


def with_paths(value: Any, elsewhere: Mapping[Path, Path]) -> Any:
    """Return arguments with some paths replaced: in sequences, and in fields of dataclasses."""
    if isinstance(value, Path):
        return elsewhere.get(value, value)
    if not paths_in(value) & elsewhere.keys():
        return value
    parts = {key: with_paths(inner, elsewhere) for key, inner in _parts(value).items()}
    return (
        replace(value, **parts) if is_dataclass(value) and not isinstance(value, type) else type(value)(parts.values())
    )


def _parts(value: Any) -> dict[Any, Any]:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return dict(enumerate(value)) if isinstance(value, list | tuple) else {}
