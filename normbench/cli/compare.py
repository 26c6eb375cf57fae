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
    ForceOption,
    JsonOption,
    KeepOption,
    PrecisionOption,
    RetryOption,
    RunsDirOption,
    SetOption,
    TensorBoardOption,
    given,
)
from normbench.cli.training_process import start_training_process


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
    dry_run: DryRunOption = False,
    keep_checkpoint: KeepOption = False,
    tensorboard: TensorBoardOption = False,
    json_output: JsonOption = False,
) -> None:
    """Compare norms: train each with each seed, then draw curves and tables.

    Running it again continues: completed runs are kept, interrupted ones go on where they stopped.
    """
    with start_training_process() as worker:  # first: the imports below take time, and its own take more
        from normbench.cli.configs import find_config
        from normbench.cli.running import RunOptions, execute
        from normbench.config.load import load_config

        flags: dict[str, Any] = {
            "seeds": seeds,
            "baseline": baseline,
            "device": device,
            "train.precision": precision,
            "train.engine": engine,
            "name": name,
        }
        loaded = load_config(find_config(config), settings=set_ or [], flags=given(flags))
        options = RunOptions(runs_dir, data_dir, force, retry, dry_run, keep_checkpoint, tensorboard, json_output)
        code = execute(loaded, options, worker)
    raise typer.Exit(code)
