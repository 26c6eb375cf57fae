"""``normbench stylize``: style transfer, where the choice of the norm is easy to see."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from normbench.cli.completion import config_names, run_folders
from normbench.cli.options import (
    BaselineOption,
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
    MlflowOption,
    NormOption,
    PrecisionOption,
    RetryOption,
    RunsDirOption,
    SetOption,
    TensorBoardOption,
    WandbOption,
    given,
)
from normbench.config.bounds import MAX_RUNS

app = typer.Typer(help="Style transfer: train, compare norms, apply.", no_args_is_help=True)


@app.command()
def train(
    style: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="A file, or one of mosaic, waves and strokes.")
    ] = None,
    norm: NormOption = None,
    norm_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the norm, such as groups=8.")
    ] = None,
    content: Annotated[str | None, typer.Option(help="cifar10, synthetic, or a folder of images.")] = None,
    features: Annotated[
        str | None, typer.Option(metavar="RUN", help="vgg16, resnet9 (trained once), or the folder of a resnet9 run.")
    ] = None,
    vgg16_weights: Annotated[
        Path | None, typer.Option(help="torchvision's file of VGG-16, for --features vgg16.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of initialization and image order.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A config file to start from, such as a run's config.yaml.", autocompletion=config_names),
    ] = None,
    set_: SetOption = None,
    device: DeviceOption = None,
    name: Annotated[str | None, typer.Option(help="The experiment's folder under runs/.")] = None,
    data_dir: DataDirOption = None,
    runs_dir: RunsDirOption = Path("runs"),
    force: ForceOption = False,
    retry: RetryOption = False,
    max_runs: MaxRunsOption = MAX_RUNS,
    dry_run: DryRunOption = False,
    keep_checkpoint: KeepOption = False,
    tensorboard: TensorBoardOption = False,
    wandb: WandbOption = False,
    mlflow: MlflowOption = False,
    json_output: JsonOption = False,
) -> None:
    """Train one network that gives any image the style of one.

    Example: normbench stylize train --style painting.jpg --norm in
    """
    from normbench.cli.running import execute
    from normbench.config.yaml_reader import parse_options
    from normbench.errors import ConfigError

    if norm is None and config is None:
        raise ConfigError("stylize train: give --norm (in, for a start) or --config FILE")
    if norm_option and norm is None:
        raise ConfigError("--norm-option needs --norm")
    options = parse_options("--norm-option", norm_option or [])
    flags: dict[str, Any] = {
        "task": "style_transfer",
        "norms": None if norm is None else [{"name": norm, "options": options}],
        "style": style,
        "content": content,
        "features": features,
        "vgg16_weights": None if vgg16_weights is None else str(vgg16_weights),
        "train.steps": steps,
        "seeds": None if seed is None else [seed],
        "device": device,
        "name": name,
    }
    execute(
        config,
        set_ or [],
        given(flags),
        default_name="stylize",
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
    )


@app.command()
def compare(
    config: Annotated[
        str, typer.Argument(help="A config file, or the name of a built-in one: style.", autocompletion=config_names)
    ],
    set_: SetOption = None,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds.", min=1)] = None,
    baseline: BaselineOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    engine: EngineOption = None,
    name: Annotated[str | None, typer.Option(help="The experiment's folder under runs/.")] = None,
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
    wandb: WandbOption = False,
    mlflow: MlflowOption = False,
    json_output: JsonOption = False,
) -> None:
    """Compare norms: train a network with each and each seed, then draw curves, pictures and the effect of contrast.

    Running it again continues: completed runs are kept, interrupted ones go on where they stopped.
    """
    from normbench.cli.running import execute
    from normbench.config.built_in import find_config

    flags = {
        "task": "style_transfer",
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
        default_name="stylize",
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
        max_failures=1 if fail_fast else max_failures,
    )


@app.command()
def apply(
    model: Annotated[Path, typer.Argument(help="A run's folder, or its model.pt.", autocompletion=run_folders)],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Images of any kind and size.")],
    out: Annotated[Path, typer.Option(help="Folder for the results, NAME-stylized.png each.")] = Path(),
    device: DeviceOption = None,
) -> None:
    """Write each image in the model's style. An image that cannot be read is named, and the others are done."""
    from normbench.cli.console import note
    from normbench.engine.device import resolve_device
    from normbench.errors import ConfigError
    from normbench.style.apply import load_style_model, stylize
    from normbench.style.images import ImageError, read_image, write_image
    from normbench.tasks.style_transfer import MODEL_FILE

    targets = [out / f"{image.stem}-stylized.png" for image in images]
    if len(set(targets)) < len(targets):
        raise ConfigError(
            "stylize apply: two images have the same name; give them in separate calls with another --out"
        )
    network, _ = load_style_model(model / MODEL_FILE if model.is_dir() else model)
    network.to(resolve_device(device or "auto"))
    num_failed = 0
    for image, target in zip(images, targets, strict=True):
        try:
            pixels = read_image(image)
        except ImageError as error:
            num_failed += 1
            note(f"normbench: {error}")
            continue
        write_image(target, stylize(network, pixels))
        print(target)
    raise typer.Exit(1 if num_failed else 0)
