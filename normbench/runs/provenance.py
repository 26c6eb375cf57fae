"""Describes this copy of NormBench: version, commit, and the command that was given."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from normbench import version


@cache
def describe_program() -> dict[str, Any]:
    """Return version, git commit and dirty flag of the source (None for an installed package), and the arguments."""
    source = Path(version.__file__).resolve().parent.parent
    commit = _git(source, "rev-parse", "HEAD") if (source / ".git").exists() else None
    changes = _git(source, "status", "--porcelain", "--untracked-files=no") if commit else None
    return {
        "normbench": version.__version__,
        "commit": commit,
        "dirty": None if changes is None else bool(changes),
        "argv": ["normbench", *sys.argv[1:]],
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
