"""What a node has: read there without torch, and by text sent there, because NormBench may be what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def probe(data_sets: Sequence[str] = (), folder: str | None = None) -> dict[str, Any]:
    """Return versions and devices of the machine that this is called on, and where it has all of `data_sets`.

    It imports all that it needs by itself, and NormBench only if that is there.

    Args:
        data_sets: names of data sets that are read from files.
        folder: where they are looked for besides the usual places.
    """
    import platform
    import runpy
    import subprocess
    from importlib.util import find_spec
    from pathlib import Path

    facts: dict[str, Any] = {"python": platform.python_version(), "normbench": None, "source": None, "data_dir": None}
    torch = find_spec("torch")
    version = runpy.run_path(str(Path(torch.origin).parent / "version.py")) if torch and torch.origin else {}
    facts |= {"torch": version.get("__version__"), "cuda": version.get("cuda")}
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        lines = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        lines = []
    facts["gpus"] = [line.partition(",")[0].strip() for line in lines]
    facts["driver"] = lines[0].partition(",")[2].strip() if lines else None
    if find_spec("normbench") is None:
        return facts
    from normbench import __version__
    from normbench.data.locate import find_cifar
    from normbench.data.official import CIFAR10, CIFAR100
    from normbench.errors import DataError
    from normbench.runs.provenance import source_sha256

    facts |= {"normbench": __version__, "source": source_sha256()}
    wanted = [official for official in (CIFAR10, CIFAR100) if official.key in data_sets]
    for place in (*([Path(folder)] if folder else []), None):
        try:
            found = {find_cifar(place, official).resolve().parent for official in wanted}
        except DataError:
            continue
        if len(found) == 1:
            facts["data_dir"] = str(found.pop())
            break
    return facts
