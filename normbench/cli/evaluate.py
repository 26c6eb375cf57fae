"""``normbench evaluate``: more than accuracy of trained networks, from the checkpoints that their runs kept."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normbench.cli.completion import one_of, run_folders
from normbench.cli.options import DataDirOption, DeviceOption, JsonOption

if TYPE_CHECKING:
    from rich.table import Table

    from normbench.experiment.evaluate_runs import RunEvaluated
    from normbench.report.chapters import Grid


def evaluate(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Folders of runs, or of experiments for all of theirs.", autocompletion=run_folders
        ),
    ],
    corruptions: Annotated[
        str,
        typer.Option(
            help="none, generated, or official: the files of CIFAR-10-C in the data folder.",
            autocompletion=one_of("none", "generated", "official"),
        ),
    ] = "none",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A setting of evaluate: in a config, such as batch_sizes=[1,32]."
        ),
    ] = None,
    device: DeviceOption = None,
    data_dir: DataDirOption = None,
    force: Annotated[bool, typer.Option("--force", help="Evaluate again what is evaluated.")] = False,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Execute the runs' own norms and networks, which stand beside them.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Evaluate trained networks: calibration, classes, statistics, corruptions.

    Needs the weights: train with --keep-checkpoint. (evaluate: {} in a config measures the same without keeping them.)

    Example: normbench evaluate runs/tutorial --corruptions generated
    """
    from normbench.experiment.worker_process import start_worker

    with start_worker() as worker:
        from normbench.cli.console import note
        from normbench.config.load import load_config
        from normbench.experiment.evaluate_runs import evaluate_runs
        from normbench.experiment.evaluate_runs import run_folders as find_folders
        from normbench.experiment.interrupts import HeldSignals
        from normbench.worker.targets import EvaluationRequest

        settings = [f"evaluate.{setting}" for setting in set_ or []]
        given = {"norms": ["bn"], "evaluate.corruptions": corruptions}
        config = load_config(None, settings=settings, flags=given).experiment.evaluate  # type: ignore[union-attr]
        assert config is not None
        folders = find_folders(runs)
        request = EvaluationRequest(folders[0], config, data_dir, device, trust_code)
        ended: list[RunEvaluated] = []
        with HeldSignals() as signals:
            for run in evaluate_runs(folders, request, worker, force=force, stop_requested=signals.arrived):
                ended.append(run)
                note(_line(run))
    _print(folders, ended, json_output=json_output)
    if any(run.state not in ("evaluated", "kept") for run in ended) or len(ended) < len(folders):
        raise typer.Exit(1)


def _line(run: RunEvaluated) -> str:
    said = {
        "evaluated": f"evaluated in {run.seconds:.1f} s",
        "kept": "has an evaluation; --force makes it again",
        "no checkpoint": "kept no weights; train it again with --force --keep-checkpoint",
        "not completed": "is not completed",
        "failed": run.reason or "failed",
    }
    return f"{run.folder.name}: {said[run.state]}"


def _print(folders: Sequence[Path], ended: Sequence[RunEvaluated], *, json_output: bool) -> None:
    """Print the tables of the experiments whose runs were evaluated, or the records themselves as JSON."""
    from normbench.report.evaluations import evaluation_grids
    from normbench.report.grouping import sections
    from normbench.report.robustness import robustness_grids
    from normbench.runs.evaluation_file import read_evaluation
    from normbench.runs.records import read_experiment

    done = [run.folder for run in ended if run.state in ("evaluated", "kept")]
    if json_output:
        records = {str(folder): read_evaluation(folder) for folder in done}
        content = {name: found.model_dump(mode="json") for name, found in records.items() if found is not None}
        print(json.dumps({"schema_version": 1, "evaluations": content}, indent=2))
        return
    for experiment in dict.fromkeys(folder.parent for folder in done):
        found = sections(read_experiment(experiment))
        for grid in (*evaluation_grids(found), *robustness_grids(found)):
            _print_grid(grid)
        print(f"\nThe figures: normbench report {shlex.quote(str(experiment))}")


def _print_grid(grid: Grid) -> None:
    """Print a table, split by columns where it is too wide, with its words below."""
    from rich.console import Console
    from rich.text import Text

    from normbench.cli.console import MIN_WORDS_WIDTH, available_width, natural_width, print_table, table
    from normbench.report.formats import split_columns

    width = available_width()

    def rendered(columns: Sequence[int]) -> Table:
        headers = [grid.headers[column] for column in columns]
        shown = table(*headers, right=headers[1:])
        for row in grid.rows:
            shown.add_row(*(Text(row[column]) for column in columns))
        return shown

    def fits(columns: Sequence[int]) -> bool:
        return width is None or natural_width(rendered(columns)) <= width

    print(f"\n{grid.title}")
    for part in split_columns([0], ([column] for column in range(1, len(grid.headers))), fits):
        print_table(rendered(part))
        print()
    Console(width=width or MIN_WORDS_WIDTH).print(Text(grid.caption, style="dim"))
