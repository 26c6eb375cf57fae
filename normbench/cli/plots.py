"""``normbench plots``: redraw every figure and table from what is recorded, of classifiers and of style transfer."""

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
    from normbench.style.report import write_style_report, write_style_run_report

    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder")
    run_folders, style_runs = find_runs(folder, "**"), find_runs(folder, "**", of_style=True)
    if not run_folders and not style_runs:
        raise RunError(f"{folder}: no runs there")
    written = []
    try:
        for run in run_folders:
            written += write_run_report(run)
        for experiment in sorted({run.parent for run in run_folders if run != folder}):
            written += write_report(experiment, baseline=baseline)
        for run in style_runs:
            written += write_style_run_report(run)
        for experiment in sorted({run.parent for run in style_runs if run != folder}):
            written += write_style_report(experiment, baseline=baseline)
    except OSError as error:
        raise FolderError(f"{error.filename or folder}: cannot be written: {error.strerror}") from error
    print("\n".join(map(str, written)))
