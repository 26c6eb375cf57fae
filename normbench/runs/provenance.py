"""Describes this copy of NormBench (version, commit, command), and what the promise of the same bits holds for."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from normbench import version


@cache
def describe_program() -> dict[str, Any]:
    """Return version, digest of the source, its commit and dirty flag (None where installed), and the arguments."""
    package = Path(version.__file__).resolve().parent
    source = package.parent
    commit = _git(source, "rev-parse", "HEAD") if (source / ".git").exists() else None
    changes = _git(source, "status", "--porcelain", "--untracked-files=no") if commit else None
    return {
        "normbench": version.__version__,
        "source": _digest(package),
        "commit": commit,
        "dirty": None if changes is None else bool(changes),
        "argv": ["normbench", *sys.argv[1:]],
    }


def _digest(package: Path) -> str:
    """Return the first 12 hexadecimal digits of a SHA-256 over the names and contents of the package's modules."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


_BITS_DEPEND_ON = ("device_name", "cpu_capability", "num_threads", "torch", "cuda", "cudnn", "triton", "source")
_ONLY_ON_CPU = ("cpu_capability", "num_threads")


def same_bits_on(environment: Mapping[str, Any]) -> str:
    """Return all that two runs of one config must share to give the same bits, as `environment` records it.

    For example ``NVIDIA H200, torch 2.11.0, cuda 13.0, cudnn 91900, triton 3.6.0, source 0123456789ab``.
    """
    is_cpu = environment.get("device") == "cpu"
    keys = [key for key in _BITS_DEPEND_ON if environment.get(key) is not None and (is_cpu or key not in _ONLY_ON_CPU)]
    words = [str(environment[key]) if key == "device_name" else f"{key} {environment[key]}" for key in keys]
    return ", ".join(words).replace("_", " ")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
