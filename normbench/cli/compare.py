"""``normbench compare``: every norm of a config or of the command line, with every seed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from normbench.cli.completion import configs_and_norms, norm_names
from normbench.cli.options import (
    BaselineOption,
    BatchSizeOption,
    DataDirOption,
    DatasetOption,
    DeviceOption,
    DryRunOption,
    EngineOption,
    EpochsOption,
    FailFastOption,
    ForceOption,
    JsonOption,
    KeepOption,
    LearningRateOption,
    MaxFailuresOption,
    MaxRunsOption,
    MlflowOption,
    ModelOption,
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


def compare(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CONFIG|NORM",
            show_default=False,
            help="A config file, the name of a built-in one (`normbench list configs`), or norms.",
            autocompletion=configs_and_norms,
        ),
    ] = None,
    norms: Annotated[
        str | None,
        typer.Option(metavar="NORM,...", help="Norms to compare in place of the config's.", autocompletion=norm_names),
    ] = None,
    model: ModelOption = None,
    dataset: DatasetOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchSizeOption = None,
    lr: LearningRateOption = None,
    seeds: SeedsOption = None,
    until_resolved: Annotated[
        bool,
        typer.Option("--until-resolved", help="Add seeds until every verdict is resolved: docs/statistics.md."),
    ] = False,
    max_seeds: Annotated[
        int | None, typer.Option(metavar="N", min=3, help="With --until-resolved, the most seeds.", show_default="20")
    ] = None,
    baseline: BaselineOption = None,
    baseline_from: Annotated[
        Path | None,
        typer.Option(metavar="SOURCE", help="Take the baseline's runs over from a bundle or folder; train the rest."),
    ] = None,
    set_: SetOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    engine: EngineOption = None,
    name: Annotated[
        str | None,
        typer.Option(help="Folder under runs/; if absent, the config's name, or one made of norms and flags."),
    ] = None,
    data_dir: DataDirOption = None,
    runs_dir: RunsDirOption = Path("runs"),
    shard: Annotated[
        str | None,
        typer.Option(metavar="K/N", help="Run part K of N, whole seeds where possible, and merge the parts later."),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Train on a Ray cluster: auto, HOST:PORT or local (docs/cluster.md)."),
    ] = None,
    cpus_per_run: Annotated[
        int, typer.Option(metavar="N", min=1, help="With --cluster: CPUs, and threads on a CPU, that a run takes.")
    ] = 1,
    node_failures: Annotated[
        int, typer.Option(metavar="N", min=0, help="With --cluster: how often a run goes on after its node was lost.")
    ] = 2,
    ship_code: Annotated[
        bool, typer.Option("--ship-code", help="With --cluster: nodes run this machine's NormBench.")
    ] = False,
    force: ForceOption = False,
    retry: RetryOption = False,
    fail_fast: FailFastOption = False,
    max_failures: MaxFailuresOption = None,
    max_runs: MaxRunsOption = MAX_RUNS,
    runs_at_once: RunsAtOnceOption = "auto",
    dry_run: DryRunOption = False,
    keep_checkpoint: KeepOption = False,
    tensorboard: TensorBoardOption = False,
    wandb: WandbOption = False,
    mlflow: MlflowOption = False,
    json_output: JsonOption = False,
) -> None:
    """Compare norms: train each with each seed, then draw curves and tables.

    Running it again continues: completed runs are kept, interrupted ones go on where they stopped.

    Example: normbench compare bn gn gn+ws --epochs 5 --seeds 3 --model resnet9
    """
    from normbench.cli.config_or_norms import config_or_norms
    from normbench.cli.running import execute
    from normbench.experiment.stopping import most_seeds

    config, chosen = config_or_norms(words or [], norms)
    most = most_seeds(seeds, max_seeds, until_resolved=until_resolved)
    flags: dict[str, Any] = {
        "norms": chosen,
        "model": model,
        "dataset": dataset,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.lr": lr,
        "seeds": seeds if most is None else most,
        "baseline": baseline,
        "device": device,
        "train.precision": precision,
        "train.engine": engine,
        "name": name,
    }
    part = where = None
    if shard is not None:
        from normbench.experiment.shards import Shard

        part = Shard.parse(shard)
    if cluster is not None:
        from normbench.cluster.options import ClusterOptions

        where = ClusterOptions(cluster, cpus_per_run, node_failures, ship_code, data_dir)
    execute(
        config,
        set_ or [],
        given(flags),
        default_name=None,
        max_runs=max_runs,
        dry_run=dry_run,
        json_output=json_output,
        cluster=where,
        runs_dir=runs_dir,
        data_dir=data_dir,
        force=force,
        retry=retry,
        keep_checkpoint=keep_checkpoint,
        tensorboard=tensorboard,
        wandb=wandb,
        mlflow=mlflow,
        runs_at_once=read_runs_at_once(runs_at_once),
        max_failures=1 if fail_fast else max_failures,
        baseline_from=baseline_from,
        max_seeds=most,
        shard=part,
    )
