"""Describes this copy of NormBench and what it runs with: version, source, packages, command, what equal bits need.

Of what is too long for a run's `environment.json` that holds the SHA-256, and the experiment's folder the text.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Mapping
from functools import cache, partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from normbench import version
from normbench.runs.atomic import write_atomically
from normbench.runs.places import without_places

PROVENANCE_FOLDER = "provenance"
"""The folder in that of an experiment, which holds what its runs ran with, each text once."""
MAX_DIFF_BYTES = 2 * 2**20
"""A larger diff is known by its SHA-256 only."""
_SOURCE_SUFFIXES = (".py", ".j2")


@cache
def describe_program() -> dict[str, Any]:
    """Return version, commit and arguments, and hashes of the source, of what is not committed and of all packages.

    ``commit``, ``dirty`` and ``diff_sha256`` are None for an installed package; the last is for a clean tree, too.
    """
    source = Path(version.__file__).resolve().parent.parent
    commit = _git(source, "rev-parse", "HEAD") if (source / ".git").exists() else None
    diff = uncommitted_changes() if commit else None
    return {
        "normbench": version.__version__,
        "source_sha256": source_sha256(),
        "commit": commit.decode().strip() if commit else None,
        "dirty": None if diff is None else bool(diff),
        "diff_sha256": _sha256(diff) if diff else None,
        "packages_sha256": _sha256(locked_packages().encode()),
        "argv": without_places(["normbench", *sys.argv[1:]]),
    }


_BITS_DEPEND_ON = ("device_name", "cpu_capability", "num_threads", "torch", "cuda", "cudnn", "triton", "source_sha256")
_ONLY_ON_CPU = ("cpu_capability", "num_threads")


def same_bits_on(environment: Mapping[str, Any]) -> str:
    """Return all that two runs of one config must share to give the same bits, as `environment` records it.

    For example ``NVIDIA H200, torch 2.11.0, cuda 13.0, cudnn 91900, triton 3.6.0, source 0123456789ab``.
    """
    is_cpu = environment.get("device") == "cpu"
    keys = [key for key in _BITS_DEPEND_ON if environment.get(key) is not None and (is_cpu or key not in _ONLY_ON_CPU)]
    return ", ".join(_in_words(key, str(environment[key])) for key in keys)


def _in_words(key: str, value: str) -> str:
    if key == "source_sha256":
        return f"source {value[:12]}"
    return value if key == "device_name" else f"{key.replace('_', ' ')} {value}"


@cache
def source_sha256() -> str:
    """Return a SHA-256 of NormBench's own code, the same for a checkout and for a wheel made of it."""
    package = Path(version.__file__).resolve().parent
    digest = hashlib.sha256()
    for path in sorted(path for path in package.rglob("*") if path.suffix in _SOURCE_SUFFIXES):
        digest.update(f"{_sha256(path.read_bytes())}  {path.relative_to(package).as_posix()}\n".encode())
    return digest.hexdigest()


@cache
def locked_packages() -> str:
    """Return all other installed packages with their versions, a line each, as a requirements file of pip has them."""
    read = (package.metadata for package in distributions())
    found = {(metadata["Name"] or "").lower().replace("_", "-"): metadata["Version"] for metadata in read}
    return "".join(sorted(f"{name}=={number}\n" for name, number in found.items() if name not in ("", "normbench")))


@cache
def uncommitted_changes() -> bytes | None:
    """Return what differs from the commit in files that git knows, as a diff to apply; None where git cannot say."""
    source = Path(version.__file__).resolve().parent.parent
    return _git(source, "diff", "HEAD", "--binary", "--no-color", "--no-ext-diff", "--no-textconv")


class ProvenanceText(NamedTuple):
    """A text that `environment.json` knows by its SHA-256."""

    key: str
    """The key there."""
    stem: str
    suffix: str

    def path(self, sha256: str) -> str:
        """Return where the experiment's folder keeps the text of that SHA-256."""
        return f"{PROVENANCE_FOLDER}/{self.stem}-{sha256[:12]}{self.suffix}"


PACKAGES = ProvenanceText("packages_sha256", "requirements", ".txt")
CHANGES = ProvenanceText("diff_sha256", "changes", ".diff")


def write_provenance(experiment_folder: Path) -> None:
    """Write what `describe_program` gives hashes of, where it is not there yet.

    Raises:
        OSError: it cannot be written.
    """
    program = describe_program()
    for text, content in ((PACKAGES, locked_packages().encode()), (CHANGES, uncommitted_changes() or b"")):
        if program[text.key] is None or len(content) > MAX_DIFF_BYTES:
            continue
        path = experiment_folder / text.path(program[text.key])
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, partial(_write, content))


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _git(folder: Path, *arguments: str) -> bytes | None:
    try:
        result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout if result.returncode == 0 else None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
