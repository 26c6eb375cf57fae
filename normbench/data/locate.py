"""The search for CIFAR on this machine: the folders that may hold it, in the order in which they are tried."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from normbench.data.official import CIFAR10, Official
from normbench.errors import DataError

DATA_DIR_VARIABLE = "NORMBENCH_DATA_DIR"


@dataclass(frozen=True)
class Place:
    """A folder that may hold CIFAR-10 or CIFAR-100."""

    named_by: str
    folder: Path
    is_explicit: bool
    """Whether the user named it: then no other place is looked at, so that a typo cannot go unnoticed."""

    def find(self, official: Official = CIFAR10) -> Path | None:
        """Return the accepted file or folder that is here, if any."""
        for name in official.accepted:
            path = self.folder / name
            if os.path.isdir(path) if name == official.batches_folder else os.path.isfile(path):
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


def find_cifar(data_dir: Path | None = None, official: Official = CIFAR10) -> Path:
    """Return the path of CIFAR-10, or of CIFAR-100, in one of the forms of `Official.accepted`.

    Raises:
        DataError: it is in none of the places searched.
    """
    candidates = searched(places(data_dir))
    for place in candidates:
        if path := place.find(official):
            return path
    raise DataError(_missing(candidates, official))


def folder_to_write(data_dir: Path | None = None) -> Path:
    """Return where new data goes: the folder that the user named, or else the user cache."""
    candidates = places(data_dir)
    return (candidates[0] if candidates[0].is_explicit else candidates[-1]).folder


def _missing(candidates: tuple[Place, ...], official: Official) -> str:
    """Say in five lines where the data set is not, and every way out."""
    folders = " and ".join(
        f"{place.folder} ({place.named_by}{'' if os.path.isdir(place.folder) else ': no such folder'})"
        for place in candidates
    )
    return "\n".join(
        (
            f"{official.label} not found in {folders}",
            f"  to download it:      normbench data fetch{official.flag}   "
            "(host slow or unreachable? --url URL takes a mirror)",
            f"  if you have a copy:  normbench data import PATH{official.flag}   "
            f"({official.npz_file}, the tar.gz or {official.batches_folder})",
            f"  if it is elsewhere:  --data-dir DIR or {DATA_DIR_VARIABLE}=DIR",
            "  without network:     dataset: synthetic   (built-in drawings; every table made from them says so)",
        )
    )
