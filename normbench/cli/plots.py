"""``normbench plots``: redraw every figure and table from what is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def plots(
    folder: Annotated[
        Path, typer.Argument(help="An experiment's folder, a run's folder, or a folder of experiments.")
    ] = Path("runs"),
    baseline: Annotated[str | None, typer.Option(help="The norm that others are compared with.")] = None,
) -> None:
    """Redraw every plot and table under a folder from what is recorded; trains nothing."""
    from normbench.errors import FolderError, RunError
    from normbench.report import write_report, write_run_report
    from normbench.runs.records import find_runs

    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder")
    run_folders = find_runs(folder, "**")
    if not run_folders:
        raise RunError(f"{folder}: no runs there")
    written = []
    try:
        for run in run_folders:
            written += write_run_report(run)
        for experiment in sorted({run.parent for run in run_folders if run != folder}):
            written += write_report(experiment, baseline=baseline)
    except OSError as error:
        raise FolderError(f"{error.filename or folder}: cannot be written: {error.strerror}") from error
    print("\n".join(map(str, written)))
