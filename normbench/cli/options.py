"""Flags that several commands share, and how they become settings of a config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from normbench.cli.completion import dataset_names, folders, model_names, norm_names, one_of

SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Set any config field, such as train.lr=0.01.")
]
NormOption = Annotated[
    str | None,
    typer.Option(help="The norm, such as gn or gn+ws; see `normbench list norms`.", autocompletion=norm_names),
]
ModelOption = Annotated[
    str | None, typer.Option(help="The network; see `normbench list models`.", autocompletion=model_names)
]
DatasetOption = Annotated[
    str | None, typer.Option(help="The images; see `normbench list datasets`.", autocompletion=dataset_names)
]
EpochsOption = Annotated[int | None, typer.Option(help="Passes over the training images.")]
BatchSizeOption = Annotated[int | None, typer.Option(help="Images per training step.")]
LearningRateOption = Annotated[float | None, typer.Option("--lr", help="Learning rate.")]
SeedsOption = Annotated[int | None, typer.Option(help="Number of seeds: 0, 1, ...", min=1)]
DeviceOption = Annotated[
    str | None, typer.Option(help="auto, cpu, cuda or mps.", autocompletion=one_of("auto", "cpu", "cuda", "mps"))
]
PrecisionOption = Annotated[
    str | None, typer.Option(help="auto, fp32, tf32 or bf16.", autocompletion=one_of("auto", "fp32", "tf32", "bf16"))
]
EngineOption = Annotated[
    str | None,
    typer.Option(help="auto, eager, graph or compile.", autocompletion=one_of("auto", "eager", "graph", "compile")),
]
DataDirOption = Annotated[
    Path | None, typer.Option(help="Folder that holds CIFAR-10.", show_default=False, autocompletion=folders)
]
RunsDirOption = Annotated[
    Path, typer.Option(envvar="NORMBENCH_RUNS_DIR", help="Folder for the results.", autocompletion=folders)
]
ForceOption = Annotated[bool, typer.Option("--force", help="Redo runs that are completed.")]
RetryOption = Annotated[
    bool, typer.Option("--retry", help="Also redo runs that failed or diverged, or whose record cannot be read.")
]
FailFastOption = Annotated[
    bool, typer.Option("--fail-fast", help="Start no other run after one that fails or diverges.")
]
MaxFailuresOption = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Start no other run after N that fail or diverge.")
]
RunsAtOnceOption = Annotated[
    str,
    typer.Option(
        metavar="N|auto", help="Runs that a device trains at once; auto: 8 classifiers on a GPU, else 1.",
        autocompletion=one_of("auto", "1", "4", "8"),
    ),
]  # fmt: skip
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the runs with id and state; train nothing.")]
KeepOption = Annotated[bool, typer.Option("--keep-checkpoint", help="Keep checkpoint.pt of completed runs.")]
MaxRunsOption = Annotated[int, typer.Option(metavar="N", min=1, help="Refuse a config that plans more runs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
BaselineOption = Annotated[
    str | None, typer.Option(help="The norm that others are compared with.", autocompletion=norm_names)
]
MarginOption = Annotated[float, typer.Option(min=0.0, help="Differences within this many points count as equivalent.")]
FamilyOption = Annotated[
    str | None,
    typer.Option(
        help="The comparisons that share the 5 % of errors: setting or sweep.",
        autocompletion=one_of("setting", "sweep"),
        show_default=False,
    ),
]
SpreadOption = Annotated[
    str | None,
    typer.Option(
        help="The cells' standard deviations in a sweep: own, or borrowed.",
        autocompletion=one_of("own", "borrowed"),
        show_default=False,
    ),
]
WandbOption = Annotated[
    bool, typer.Option("--wandb", help="Also log to Weights & Biases (pip install 'normbench\\[wandb]').")
]
MlflowOption = Annotated[bool, typer.Option("--mlflow", help="Also log to MLflow (pip install 'normbench\\[mlflow]').")]
TensorBoardOption = Annotated[
    bool,
    typer.Option(
        "--tensorboard",
        help="Also write TensorBoard files, as runs train (pip install 'normbench\\[tensorboard]').",
    ),
]


def read_runs_at_once(text: str) -> int | None:
    """Read what ``--runs-at-once`` says; None for ``auto``.

    Raises:
        ConfigError: it is neither ``auto`` nor a whole number from 1.
    """
    from normbench.config.bounds import parse_count
    from normbench.errors import ConfigError

    number = parse_count(text)
    if number is None and text != "auto":
        raise ConfigError(f"--runs-at-once: {text!r} is neither auto nor a whole number from 1; for example 4")
    return number


def given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return, by the config's field that they set, the flags that were given."""
    return {path: value for path, value in flags.items() if value is not None}
