"""``normbench show``: all that is recorded about one run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normbench.cli.completion import run_folders
from normbench.cli.options import JsonOption, RunsDirOption

if TYPE_CHECKING:
    from normbench.runs.records import RunRecord


def show(
    run: Annotated[
        str,
        typer.Argument(
            help="A run's folder, or its name (or the name's beginning) under the runs folder.",
            autocompletion=run_folders,
        ),
    ],
    runs_dir: RunsDirOption = Path("runs"),
    json_output: JsonOption = False,
) -> None:
    """Show one run: state, results, config, environment and files.

    Example: normbench show runs/tutorial/gn-norm_resnet-bs64-s0-3f2a9c1b
    """
    from normbench.runs.records import read_run

    record = read_run(find_run(run, runs_dir))
    if json_output:
        print(json.dumps(as_json(record), indent=2))
    else:
        _print(record)


def find_run(name: str, runs_dir: Path) -> Path:
    """Return the folder of the run called `name`: a path, its name, or a beginning that only one run has.

    Raises:
        RunError: there is none, or several.
    """
    from normbench.errors import RunError, suggestion
    from normbench.runs.records import find_runs, is_run

    path = Path(name)
    if is_run(path):
        return path
    if os.path.isdir(path):
        raise RunError(f"{name}: not a run; `normbench ls` and `normbench table` show experiments")
    runs = find_runs(runs_dir, "**")
    found = [run for run in runs if run.name == name] or [run for run in runs if run.name.startswith(name)]
    if len(found) > 1:
        listed = ", ".join(str(run) for run in found[:5]) + (", ..." if len(found) > 5 else "")
        raise RunError(f"{name}: {len(found)} runs are called so; give the folder: {listed}")
    if not found:
        near = suggestion(name, [run.name for run in runs]).partition(" Allowed:")[0].rstrip(".")
        raise RunError(f"{name}: no such run under {runs_dir}{near}")
    return found[0]


def as_json(record: RunRecord) -> dict[str, Any]:
    """Return all that the run's files say but the losses of single steps."""
    epochs = [json.loads(epoch.model_dump_json()) for epoch in record.epochs]  # which writes NaN as JSON can
    return {
        "schema_version": 1,
        "run": record.run_id,
        "folder": str(record.folder),
        "status": record.status.model_dump(),
        "summary": json.loads(record.summary.model_dump_json()) if record.summary else None,
        **({"epochs": epochs} if record.task.has_epochs else {}),
        "num_steps_recorded": len(record.step_losses),
        **({"probes": _probes(record)} if record.probe_rows else {}),
        **({"unreadable": list(record.unreadable)} if record.unreadable else {}),
        "config": record.config.model_dump(mode="json"),
        "environment": dict(record.environment),
        "files": _files(record.folder),
    }


def _files(folder: Path) -> dict[str, int]:
    """Return the bytes of each file of a run."""
    found = {}
    with suppress(OSError):  # the run may be replaced meanwhile
        for path in sorted([*folder.iterdir(), *folder.glob("probes/*")]):
            if path.is_file() and path.name[0] != ".":
                found[path.relative_to(folder).as_posix()] = path.stat().st_size
    return found


def _probes(record: RunRecord) -> dict[str, dict[str, int | None]]:
    """Return how often each probe of a run has measured, and before which step first and last."""
    return {
        name: {
            "num_rows": len(rows),
            "first_step": rows[0].step if rows else None,
            "last_step": rows[-1].step if rows else None,
        }
        for name, rows in record.probe_rows.items()
    }


def _describe_probe(found: Mapping[str, int | None]) -> str:
    """Write it in a line: ``20 rows, steps 0 to 3800``."""
    if not found["num_rows"]:
        return "no rows"
    count = f"{found['num_rows']} row{'' if found['num_rows'] == 1 else 's'}"
    return f"{count}, steps {found['first_step']} to {found['last_step']}"


def _promise(environment: Mapping[str, Any]) -> str:
    """Return on what another run of the config gives the same bits."""
    from normbench.runs.provenance import same_bits_on

    recorded = str(environment.get("same_bits", "no: not recorded"))
    return f"bit-reproducible on {same_bits_on(environment)}" if recorded == "yes" else recorded


def _print(record: RunRecord) -> None:
    from rich.table import Table
    from rich.text import Text

    from normbench.cli.console import print_table
    from normbench.cli.ls import format_size
    from normbench.errors import shown
    from normbench.report.grouping import flatten

    status = record.status.model_dump(exclude={"pid"}) | {"reproducible": _promise(record.environment)}
    sections: dict[str, dict[str, Any]] = {
        "run": {"name": record.run_id, "folder": record.folder, **status},
        "results": flatten(record.summary.model_dump(mode="json")) if record.summary else {},
        "probes": {name: _describe_probe(found) for name, found in _probes(record).items()},
        "unreadable": {str(number): problem for number, problem in enumerate(record.unreadable, 1)},
        "config": flatten(record.config.model_dump(mode="json")),
        "environment": flatten(record.environment),
        "files": {name: format_size(size) for name, size in _files(record.folder).items()},
    }
    sections = {name: facts for name, facts in sections.items() if facts or name not in ("probes", "unreadable")}
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for number, (title, facts) in enumerate(sections.items()):
        if number:
            table.add_row("", "")
        table.add_row(Text(title, style="bold"), "" if facts else "none yet")
        for name, value in facts.items():
            text = "-" if value is None else f"{value:.6g}" if isinstance(value, float) else shown(str(value))
            table.add_row(Text(f"  {shown(name)}"), Text(text))
    print_table(table)
