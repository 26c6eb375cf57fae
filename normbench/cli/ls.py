"""``normbench ls``: the recorded experiments. Reads statuses only, so that thousands of runs are listed at once."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, get_args

import typer

from normbench.cli.completion import folders
from normbench.cli.options import JsonOption, RunsDirOption


@dataclass(frozen=True)
class Listed:
    """A summary of one experiment's folder."""

    experiment: str
    runs: int
    states: dict[str, int]
    size_bytes: int
    last_started_at: str | None
    """The latest start of a run, UTC, ISO 8601."""


def ls(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="The folder that holds the experiments, in place of --runs-dir.",
            show_default=False,
            autocompletion=folders,
        ),
    ] = None,
    runs_dir: RunsDirOption = Path("runs"),
    json_output: JsonOption = False,
) -> None:
    """List the experiments under a folder: runs by state, size on disk, when last run."""
    from normbench.errors import RunError

    runs_dir = runs_dir if folder is None else folder
    if not os.path.isdir(runs_dir):
        raise RunError(f"{runs_dir}: no such folder")
    found = list(list_experiments(runs_dir))
    if json_output:
        print(json.dumps({"schema_version": 1, "experiments": [asdict(entry) for entry in found]}, indent=2))
    elif found:
        _print(found)
    else:
        raise RunError(f"{runs_dir}: no runs there")


def list_experiments(runs_dir: Path) -> Iterator[Listed]:
    """Yield the experiments under `runs_dir`, by name."""
    from normbench.errors import RunError
    from normbench.runs.records import find_runs, read_status

    by_experiment: dict[Path, list[Path]] = {}
    for run in find_runs(runs_dir, "**"):
        by_experiment.setdefault(run.parent, []).append(run)
    for folder, runs in by_experiment.items():
        statuses = []
        num_unreadable = 0
        for run in runs:
            try:
                statuses.append(read_status(run))
            except RunError:
                num_unreadable += 1
        states = Counter[str](status.state for status in statuses)
        if num_unreadable:
            states["unreadable"] = num_unreadable
        name = folder.name if folder == runs_dir else str(folder.relative_to(runs_dir))
        last = max((status.started_at for status in statuses), default=None)
        yield Listed(name, len(runs), dict(states), size_of(folder), last)


def size_of(folder: Path) -> int:
    """Return the bytes of all files under `folder`, but for those that are gone before they are looked at."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size += os.lstat(os.path.join(place, name)).st_size
    return size


def format_size(num_bytes: int) -> str:
    """Write a size as ``1.2 MiB``."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} B"


def _print(found: list[Listed]) -> None:
    from rich.text import Text

    from normbench.cli.console import print_table, table
    from normbench.errors import shown
    from normbench.runs.records import State

    states = [state for state in (*get_args(State), "unreadable") if any(entry.states.get(state) for entry in found)]
    numbers = ("runs", *states, "size")
    listed = table("experiment", *numbers, "last started (UTC)", right=numbers)
    for entry in found:
        counts = [str(entry.states.get(state, 0) or "-") for state in states]
        started = (entry.last_started_at or "-")[:16].replace("T", " ")
        name = Text(shown(entry.experiment))
        listed.add_row(name, str(entry.runs), *counts, format_size(entry.size_bytes), started)
    print_table(listed)
