"""``normbench train``: one norm, with one seed or several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from normbench.cli.completion import config_names
from normbench.cli.options import (
    BatchSizeOption,
    DataDirOption,
    DatasetOption,
    DeviceOption,
    DryRunOption,
    EngineOption,
    EpochsOption,
    ForceOption,
    JsonOption,
    KeepOption,
    LearningRateOption,
    MaxRunsOption,
    MlflowOption,
    ModelOption,
    NormOption,
    PrecisionOption,
    RetryOption,
    RunsAtOnceOption,
    RunsDirOption,
    SeedsOption,
    SetOption,
    TensorBoardOption,
    WandbOption,
    given,
    read_runs_at_once,
)
from normbench.config.bounds import MAX_RUNS


def train(
    norm: NormOption = None,
    norm_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the norm, such as groups=8.")
    ] = None,
    model: ModelOption = None,
    dataset: DatasetOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchSizeOption = None,
    lr: LearningRateOption = None,
    seed: Annotated[int | None, typer.Option(help="Seed of initialization, image order and augmentation.")] = None,
    seeds: SeedsOption = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A config file to start from; a run's config.yaml reruns it.", autocompletion=config_names),
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
    runs_at_once: RunsAtOnceOption = "auto",
    dry_run: DryRunOption = False,
    keep_checkpoint: KeepOption = False,
    tensorboard: TensorBoardOption = False,
    wandb: WandbOption = False,
    mlflow: MlflowOption = False,
    json_output: JsonOption = False,
) -> None:
    """Train a network with one norm and one or more seeds, by the tutorial's protocol unless told otherwise.

    Example: normbench train --norm gn --norm-option groups=8
    """
    from normbench.errors import ConfigError

    if norm is None and config is None:
        raise ConfigError("train: give --norm (see `normbench list norms`) or --config FILE")
    if norm_option and norm is None:
        raise ConfigError("--norm-option needs --norm")
    if seed is not None and seeds is not None:
        raise ConfigError("--seed is one seed, --seeds a number of seeds: give one of them")
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
        "seeds": seeds,
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
        wandb=wandb,
        mlflow=mlflow,
        runs_at_once=read_runs_at_once(runs_at_once),
    )
