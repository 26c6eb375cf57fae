"""``normbench retry``: what failed in an experiment, once more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from normbench.cli.completion import run_folders
from normbench.cli.options import (
    DataDirOption,
    DryRunOption,
    JsonOption,
    KeepOption,
    MaxRunsOption,
    MlflowOption,
    TensorBoardOption,
    WandbOption,
)
from normbench.config.bounds import MAX_RUNS


def retry(
    folder: Annotated[
        Path, typer.Argument(help="An experiment's folder, such as runs/tutorial.", autocompletion=run_folders)
    ],
    data_dir: DataDirOption = None,
    max_runs: MaxRunsOption = MAX_RUNS,
    dry_run: DryRunOption = False,
    keep_checkpoint: KeepOption = False,
    tensorboard: TensorBoardOption = False,
    wandb: WandbOption = False,
    mlflow: MlflowOption = False,
    json_output: JsonOption = False,
) -> None:
    """Run a recorded experiment again: runs that failed or diverged anew, interrupted ones from where they stopped."""
    from normbench.cli.running import execute
    from normbench.errors import RunError
    from normbench.runs.records import EXPERIMENT_FILE

    recorded = folder / EXPERIMENT_FILE
    if not recorded.is_file():
        raise RunError(f"{folder}: no experiment there (its folder holds {EXPERIMENT_FILE})")
    execute(
        recorded,
        [],
        {"name": folder.resolve().name},
        default_name="retry",
        max_runs=max_runs,
        dry_run=dry_run,
        json_output=json_output,
        runs_dir=folder.parent if folder.name not in ("", "..") else folder.resolve().parent,
        data_dir=data_dir,
        retry=True,
        keep_checkpoint=keep_checkpoint,
        tensorboard=tensorboard,
        wandb=wandb,
        mlflow=mlflow,
    )
