"""``normbench plots``: redraw every figure and table from what is recorded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from normbench.cli.completion import run_folders
from normbench.cli.options import BaselineOption


def plots(
    folder: Annotated[
        Path,
        typer.Argument(
            help="An experiment's folder, a run's folder, or a folder of experiments.", autocompletion=run_folders
        ),
    ] = Path("runs"),
    baseline: BaselineOption = None,
) -> None:
    """Redraw every plot and table under a folder from what is recorded; trains nothing."""
    from normbench.cli.console import note
    from normbench.errors import RunError, shown
    from normbench.report import write_report, write_run_report
    from normbench.runs.records import REPORT_FOLDER, find_runs
    from normbench.runs.writer import folder_errors

    if not os.path.isdir(folder):
        raise RunError(f"{folder}: no such folder")
    recorded = find_runs(folder, "**")
    if not recorded:
        raise RunError(f"{folder}: no runs there")
    written: list[Path] = []
    problems: dict[str, None] = {}  # a run that cannot be read is alone the reason why its experiment cannot be
    for run in recorded:
        with folder_errors(run):
            try:
                written += write_run_report(run)
            except RunError as error:
                problems[str(error)] = None
    for experiment in sorted({run.parent for run in recorded if run != folder}):
        with folder_errors(experiment / REPORT_FOLDER):
            try:
                written += write_report(experiment, baseline=baseline)
            except RunError as error:
                problems[str(error)] = None
    print("\n".join(shown(str(path)) for path in written))
    for problem in problems:
        note(f"normbench: {problem}")
    if problems:
        raise typer.Exit(1)
