"""``normbench report``: the page, tables and figures of an experiment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from normbench.cli.completion import run_folders
from normbench.cli.options import (
    BaselineOption,
    FamilyOption,
    JsonOption,
    MarginOption,
    SpreadOption,
    TensorBoardOption,
    given,
)


def report(
    folder: Annotated[
        Path,
        typer.Argument(
            help="An experiment's folder, a folder of experiments, or a bundle.", autocompletion=run_folders
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The folder; if absent, report/ in the experiment's, or, of a bundle, NAME-report/ here.",
        ),
    ] = None,
    baseline: BaselineOption = None,
    margin: MarginOption = 0.5,
    family: FamilyOption = None,
    spread: SpreadOption = None,
    tensorboard: TensorBoardOption = False,
    json_output: JsonOption = False,
) -> None:
    """Write report.html, tables and figures over what is recorded; trains nothing.

    Example: normbench report runs/tutorial
    """
    from normbench.cli.console import note
    from normbench.errors import ConfigError, RunError, shown
    from normbench.report import Report, write_report_of
    from normbench.report.recorded_runs import load_experiments
    from normbench.report.setting_results import analysis_of
    from normbench.report.tensorboard import require_tensorboard, write_tensorboard
    from normbench.runs.bundle_file import find_bundle
    from normbench.runs.records import REPORT_FOLDER, is_run
    from normbench.runs.writer import folder_errors

    if tensorboard:
        require_tensorboard()
    if is_run(folder):
        raise RunError(f"{folder}: this is one run; `normbench show` prints it, and a report is over {folder.parent}")
    written = {}
    left_out: list[str] = []
    experiments = load_experiments(folder, left_out.append)
    if output is not None and len(experiments) > 1:
        raise ConfigError(f"--output: one folder for a report, and {folder} holds {len(experiments)} experiments")
    for experiment in experiments:
        analysis = analysis_of(experiment, given({"family": family, "spread": spread}))
        found = Report(experiment, baseline, margin / 100, analysis)
        place = find_bundle(experiment.folder)
        if tensorboard and place:
            raise ConfigError("--tensorboard: its files go into the experiment's folder; a bundle is not written into")
        elsewhere = output or (Path(f"{place.bundle.path.stem}-report") if place else None)
        with folder_errors(elsewhere or experiment.folder / REPORT_FOLDER):
            paths = write_report_of(found, folder=elsewhere)
            if tensorboard:
                paths.append(write_tensorboard(found))
        written[str(experiment.folder)] = [str(path) for path in paths]
    if json_output:
        print(json.dumps({"schema_version": 1, "written": written}, indent=2))
    else:
        print("\n".join(shown(path) for paths in written.values() for path in paths))
    for text in left_out:
        note(f"normbench: {text}")
    if left_out:
        raise typer.Exit(1)
