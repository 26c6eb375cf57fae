"""``normbench compare``: every norm of a config, with every seed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from normbench.cli.options import (
    DataDirOption,
    DeviceOption,
    DryRunOption,
    EngineOption,
    FailFastOption,
    ForceOption,
    JsonOption,
    KeepOption,
    MaxFailuresOption,
    MaxRunsOption,
    PrecisionOption,
    RetryOption,
    RunsDirOption,
    SetOption,
    TensorBoardOption,
    given,
)
from normbench.config.bounds import MAX_RUNS


def compare(
    config: Annotated[
        str, typer.Argument(help="A config file, or the name of a built-in one (`normbench list configs`).")
    ],
    set_: SetOption = None,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds.", min=1)] = None,
    baseline: Annotated[str | None, typer.Option(help="The norm that others are compared with.")] = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    engine: EngineOption = None,
    name: Annotated[
        str | None, typer.Option(help="The experiment's folder under runs/; the config's name if absent.")
    ] = None,
    data_dir: DataDirOption = None,
    runs_dir: RunsDirOption = Path("runs"),
    force: ForceOption = False,
    retry: RetryOption = False,
    fail_fast: FailFastOption = False,
    max_failures: MaxFailuresOption = None,
    max_runs: MaxRunsOption = MAX_RUNS,
    dry_run: DryRunOption = False,
    keep_checkpoint: KeepOption = False,
    tensorboard: TensorBoardOption = False,
    json_output: JsonOption = False,
) -> None:
    """Compare norms: train each with each seed, then draw curves and tables.

    Running it again continues: completed runs are kept, interrupted ones go on where they stopped.
    """
    from normbench.cli.running import execute
    from normbench.config.built_in import find_config

    flags: dict[str, Any] = {
        "seeds": seeds,
        "baseline": baseline,
        "device": device,
        "train.precision": precision,
        "train.engine": engine,
        "name": name,
    }
    execute(
        find_config(config),
        set_ or [],
        given(flags),
        default_name="train",
        max_runs=max_runs,
        dry_run=dry_run,
        json_output=json_output,
        runs_dir=runs_dir,
        data_dir=data_dir,
        force=force,
        retry=retry,
        keep_checkpoint=keep_checkpoint,
        tensorboard=tensorboard,
        max_failures=1 if fail_fast else max_failures,
    )
