"""``normbench train``: one run."""

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
    MaxRunsOption,
    PrecisionOption,
    RetryOption,
    RunsDirOption,
    SetOption,
    TensorBoardOption,
    given,
)
from normbench.config.bounds import MAX_RUNS


def train(
    norm: Annotated[str | None, typer.Option(help="The norm, such as gn or gn+ws; see `normbench list norms`.")] = None,
    norm_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the norm, such as groups=8.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="See `normbench list models`.")] = None,
    dataset: Annotated[str | None, typer.Option(help="See `normbench list datasets`.")] = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    batch_size: Annotated[int | None, typer.Option()] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    config: Annotated[
        Path | None, typer.Option(help="A config file to start from; a run's config.yaml reruns it.")
    ] = None,
    set_: SetOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    engine: EngineOption = None,
    name: Annotated[str | None, typer.Option(help="The experiment's folder under runs/.")] = None,
    data_dir: DataDirOption = None,
    runs_dir: RunsDirOption = Path("runs"),
    force: ForceOption = False,
    retry: RetryOption = False,
    max_runs: MaxRunsOption = MAX_RUNS,
    dry_run: DryRunOption = False,
    keep_checkpoint: KeepOption = False,
    tensorboard: TensorBoardOption = False,
    json_output: JsonOption = False,
) -> None:
    """Train one network with one norm; the tutorial's protocol unless told otherwise.

    Example: normbench train --norm gn --norm-option groups=8
    """
    from normbench.errors import ConfigError

    if norm is None and config is None:
        raise ConfigError("train: give --norm (see `normbench list norms`) or --config FILE")
    if norm_option and norm is None:
        raise ConfigError("--norm-option needs --norm")
    from normbench.cli.running import execute
    from normbench.config.yaml_reader import parse_options

    flags: dict[str, Any] = {
        "norm": {"name": norm, "options": parse_options("--norm-option", norm_option)} if norm_option else norm,
        "model": model,
        "dataset": dataset,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.lr": lr,
        "seed": seed,
        "device": device,
        "train.precision": precision,
        "train.engine": engine,
        "name": name,
    }
    execute(
        config,
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
    )
