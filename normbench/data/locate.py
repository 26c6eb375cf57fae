"""The search for CIFAR-10 on this machine: the folders that may hold it, in the order in which they are tried."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from normbench.errors import DataError

BATCHES_FOLDER = "cifar-10-batches-py"
NPZ_FILE = "cifar10.npz"
ARCHIVE_FILE = "cifar-10-python.tar.gz"
ACCEPTED = (BATCHES_FOLDER, NPZ_FILE, ARCHIVE_FILE)
"""Names looked for in a folder, of which the first is taken. The archive is last: it has to be unpacked."""

DATA_DIR_VARIABLE = "NORMBENCH_DATA_DIR"


@dataclass(frozen=True)
class Place:
    """A folder that may hold CIFAR-10."""

    named_by: str
    folder: Path
    is_explicit: bool
    """Whether the user named it: then no other place is looked at, so that a typo cannot go unnoticed."""

    def find(self) -> Path | None:
        """Return the accepted file or folder that is here, if any."""
        for name in ACCEPTED:
            path = self.folder / name
            if os.path.isdir(path) if name == BATCHES_FOLDER else os.path.isfile(path):
                return path
        return None


def places(data_dir: Path | None = None) -> tuple[Place, ...]:
    """Return every place, the most specific first; see `searched` for those that count."""
    variable = os.environ.get(DATA_DIR_VARIABLE)
    explicit = [("--data-dir", data_dir), (DATA_DIR_VARIABLE, Path(variable) if variable else None)]
    return (
        *(Place(name, Path(os.path.expanduser(folder)), True) for name, folder in explicit if folder is not None),
        Place("current folder", Path("data"), False),
        Place("user cache", platformdirs.user_cache_path("normbench"), False),
    )


def searched(candidates: tuple[Place, ...]) -> tuple[Place, ...]:
    """Return the places that are looked at: the first one that the user named, alone, or else all."""
    return candidates[:1] if candidates[0].is_explicit else candidates


def find_cifar10(data_dir: Path | None = None) -> Path:
    """Return the path of CIFAR-10, in one of the forms of `ACCEPTED`.

    Raises:
        DataError: it is in none of the places searched.
    """
    candidates = searched(places(data_dir))
    for place in candidates:
        if path := place.find():
            return path
    raise DataError(_missing(candidates))


def folder_to_write(data_dir: Path | None = None) -> Path:
    """Return where new data goes: the folder that the user named, or else the user cache."""
    candidates = places(data_dir)
    return (candidates[0] if candidates[0].is_explicit else candidates[-1]).folder


def _missing(candidates: tuple[Place, ...]) -> str:
    """Say in five lines where CIFAR-10 is not, and every way out."""
    folders = " and ".join(
        f"{place.folder} ({place.named_by}{'' if os.path.isdir(place.folder) else ': no such folder'})"
        for place in candidates
    )
    return "\n".join(
        (
            f"CIFAR-10 not found in {folders}",
            "  to download it:      normbench data fetch   (host slow or unreachable? --url URL takes a mirror)",
            "  if you have a copy:  normbench data import PATH   (cifar10.npz, the tar.gz or cifar-10-batches-py)",
            f"  if it is elsewhere:  --data-dir DIR or {DATA_DIR_VARIABLE}=DIR",
            "  without network:     dataset: synthetic   (built-in drawings; every table made from them says so)",
        )
    )
