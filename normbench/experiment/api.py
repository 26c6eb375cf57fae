"""The Python API: compare and train, as the command line does, with the same workers, records and resume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from normbench.config.bounds import MAX_RUNS
from normbench.config.built_in import find_config
from normbench.config.load import load_config
from normbench.config.schema import BaseExperimentConfig
from normbench.errors import ConfigError, UnknownNameError
from normbench.experiment.comparison import Comparison
from normbench.experiment.execute import Listener, RunOptions, run_experiment
from normbench.experiment.own_objects import with_own_objects
from normbench.experiment.shards import Shard
from normbench.experiment.site import open_site
from normbench.experiment.stopping import most_seeds
from normbench.experiment.tuning import plan_tuned
from normbench.experiment.worker_process import start_worker
from normbench.registry import load

ConfigLike = str | Path | Mapping[str, Any] | BaseExperimentConfig
"""A config file, the name of a built-in config, a config as a mapping, or an experiment's config."""

_EXPERIMENT_ARGUMENTS = {
    "norms": "norms",
    "seeds": "seeds",
    "baseline": "baseline",
    "model": "model",
    "dataset": "dataset",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "lr": "train.lr",
    "precision": "train.precision",
    "engine": "train.engine",
    "device": "device",
    "name": "name",
}
"""The config field that each argument sets; those of the command line have the same names."""


def compare(
    config: ConfigLike | None = None,
    *more: object,
    settings: Sequence[str] = (),
    runs_dir: str | Path = "runs",
    data_dir: str | Path | None = None,
    force: bool = False,
    retry: bool = False,
    keep_checkpoint: bool = False,
    tensorboard: bool = False,
    wandb: bool = False,
    mlflow: bool = False,
    fail_fast: bool = False,
    max_failures: int | None = None,
    baseline_from: str | Path | None = None,
    until_resolved: bool = False,
    max_seeds: int | None = None,
    runs_at_once: int | None = None,
    shard: str | None = None,
    cluster: str | None = None,
    cpus_per_run: int = 1,
    max_runs: int = MAX_RUNS,
    listener: Listener | None = None,
    **arguments: Any,
) -> Comparison:
    """Train every norm of a config with every seed, and return the comparison; continue what was begun before.

        result = normbench.compare("tutorial", seeds=3, device="cpu")
        print(result.table())

    Args:
        config: a config file, the name of a built-in one (``"tutorial"``), a mapping, or an `ExperimentConfig`. Without
            one, `arguments` say everything and must name `norms`.
        more: nothing: a comparison has one config.
        settings: any config fields as ``"train.lr=0.01"``, as ``--set`` takes them.
        runs_dir: the folder for the results; the experiment gets a folder in it.
        data_dir: the folder that holds CIFAR-10, if it is none of the usual ones.
        force: train again what is completed.
        retry: train again what failed or diverged.
        keep_checkpoint: keep the trained networks, for `normbench.load_model`.
        tensorboard: also write TensorBoard files.
        wandb: also log to Weights & Biases.
        mlflow: also log to MLflow.
        fail_fast: start no other run after one that fails or diverges.
        max_failures: start no other run after so many that fail or diverge.
        baseline_from: a folder or bundle whose runs of the baseline, with the same settings, are taken over.
        until_resolved: add seeds until every verdict is resolved, at the looks of docs/statistics.md.
        max_seeds: the most seeds then; 20 if absent.
        runs_at_once: how many runs a device trains at once, at most; by default 8 classifiers on a GPU, and else one.
            What a run computes does not depend on it.
        shard: ``"K/N"``: run part K of N, whole seeds where possible.
        cluster: ``"local"``, ``"auto"`` or ``"HOST:PORT"``: train on a Ray cluster (docs/cluster.md).
        cpus_per_run: the CPUs that a run takes there.
        max_runs: the most runs that the config may ask for.
        listener: a function that is called with every event, in place of a display of progress.
        arguments: `norms`, `seeds`, `baseline`, `model`, `dataset`, `epochs`, `batch_size`, `lr`, `precision`,
            `engine`, `device` and `name`; they win over `settings`, those over `config`. A norm, and the model, may be
            a class or function of your own (docs/own.md).

    Raises:
        ConfigError: a value, name or argument is wrong; the message is the one that the command line prints.
        DataError: the data set is missing or damaged.
        DeviceError: the device is not there.
        KeyboardInterrupt: Ctrl-C; runs ended their step and saved a checkpoint: call again to go on.
    """
    if more:
        raise ConfigError("compare takes one config: a file, a name, a mapping or an ExperimentConfig")
    flags = _flags("compare", arguments, _EXPERIMENT_ARGUMENTS)
    most = most_seeds(arguments.get("seeds"), max_seeds, until_resolved=until_resolved)
    if most is not None:
        flags["seeds"] = most
    options = _options(runs_dir, data_dir, force, retry, keep_checkpoint, tensorboard)
    options = replace(options, max_seeds=most)
    options = replace(options, wandb=wandb, mlflow=mlflow, max_failures=1 if fail_fast else max_failures)
    options = replace(options, runs_at_once=_count(runs_at_once))
    if baseline_from is not None:
        options = replace(options, baseline_from=Path(baseline_from))
    if shard is not None:
        options = replace(options, shard=Shard.parse(shard))
    where = None
    if cluster is not None:
        where = load("normbench.cluster.options:ClusterOptions")(cluster, cpus_per_run, data_dir=options.data_dir)
    return _execute(_source(config), settings, flags, options, listener, max_runs, default_name=None, cluster=where)


def train(
    norm: str | Callable[..., Any] | None = None,
    *more: object,
    norm_options: Mapping[str, Any] | None = None,
    seed: int | None = None,
    config: ConfigLike | None = None,
    settings: Sequence[str] = (),
    runs_dir: str | Path = "runs",
    data_dir: str | Path | None = None,
    force: bool = False,
    retry: bool = False,
    keep_checkpoint: bool = False,
    tensorboard: bool = False,
    wandb: bool = False,
    mlflow: bool = False,
    runs_at_once: int | None = None,
    max_runs: int = MAX_RUNS,
    listener: Listener | None = None,
    **arguments: Any,
) -> Comparison:
    """Train one network with one norm, or one for each of several seeds, by the tutorial's protocol by default.

        result = normbench.train("gn", norm_options={"groups": 8}, epochs=2, device="cpu")
        print(result.rows()[0]["test_accuracy"])

    Args:
        norm: the norm, such as ``"gn"``, ``"gn+ws"`` or ``"./mynorm.py:MyNorm"``, or a class or function of a number of
            channels; may be left out where `config` names it.
        more: nothing: a run has one norm.
        norm_options: options of the norm.
        seed: the seed of initialisation, image order and augmentation.
        config: a config to start from, such as a run's ``config.yaml``.
        settings: see `compare`, as for all other arguments.
        runs_dir: see `compare`.
        data_dir: see `compare`.
        force: see `compare`.
        retry: see `compare`.
        keep_checkpoint: see `compare`.
        tensorboard: see `compare`.
        wandb: see `compare`.
        mlflow: see `compare`.
        runs_at_once: see `compare`.
        max_runs: see `compare`.
        listener: see `compare`.
        arguments: `seeds` (a number of them, or a list, in place of `seed`), `model`, `dataset`, `epochs`,
            `batch_size`, `lr`, `precision`, `engine`, `device` and `name`.

    Raises:
        ConfigError: a value, name or argument is wrong.
        DataError: the data set is missing or damaged.
        DeviceError: the device is not there.
        KeyboardInterrupt: Ctrl-C; the run ended its step and saved a checkpoint: call again to go on.
    """
    if more:
        raise ConfigError("train takes one norm; normbench.compare takes several")
    if norm is None and config is None:
        raise ConfigError("train: give norm (see `normbench list norms`) or config")
    if norm_options and norm is None:
        raise ConfigError("norm_options needs norm")
    allowed = {name: path for name, path in _EXPERIMENT_ARGUMENTS.items() if name not in ("norms", "baseline")}
    flags = _flags("train", arguments, allowed)
    if norm is not None:
        options_given = {"options": dict(norm_options)} if norm_options else {}
        flags["norm"] = with_own_objects({"norm": {"name": norm, **options_given} if norm_options else norm})["norm"]
    if seed is not None:
        if "seeds" in flags:
            raise ConfigError("seed is one seed, seeds a number or a list of seeds: give one of them")
        flags["seed"] = seed
    options = replace(
        _options(runs_dir, data_dir, force, retry, keep_checkpoint, tensorboard),
        wandb=wandb, mlflow=mlflow, runs_at_once=_count(runs_at_once),
    )  # fmt: skip
    return _execute(_source(config), settings, flags, options, listener, max_runs, default_name="train")


def _flags(function: str, arguments: Mapping[str, Any], allowed: Mapping[str, str]) -> dict[str, Any]:
    for name in arguments:
        if name not in allowed:
            raise UnknownNameError(f"argument of {function}:", name, sorted([*allowed, *_OPTIONS, *_OWN[function]]))
    given = with_own_objects({name: value for name, value in arguments.items() if value is not None})
    return {allowed[name]: value for name, value in given.items()}


_OWN = {
    "compare": (
        "fail_fast",
        "max_failures",
        "baseline_from",
        "shard",
        "until_resolved",
        "max_seeds",
        "cluster",
        "cpus_per_run",
    ),
    "train": ("norm", "norm_options", "seed"),
}
"""The arguments by name that only one of the functions has."""
_OPTIONS = ("config", "settings", *(set(RunOptions.__dataclass_fields__) - {*_OWN["compare"]}), "max_runs", "listener")


def _options(
    runs_dir: str | Path, data_dir: str | Path | None, force: bool, retry: bool, keep: bool, tensorboard: bool
) -> RunOptions:
    return RunOptions(Path(runs_dir), None if data_dir is None else Path(data_dir), force, retry, keep, tensorboard)


def _count(runs_at_once: int | None) -> int | None:
    if runs_at_once is not None and (type(runs_at_once) is not int or runs_at_once < 1):
        raise ConfigError(f"runs_at_once: {runs_at_once!r} is neither None nor a whole number from 1")
    return runs_at_once


def _source(config: ConfigLike | None) -> Path | Mapping[str, Any] | None:
    if isinstance(config, BaseExperimentConfig):
        return config.model_dump()
    if isinstance(config, Mapping):
        return with_own_objects(config)
    if isinstance(config, Path):
        return config
    if isinstance(config, str):
        return find_config(config)
    if config is None:
        return config
    raise ConfigError(f"{config!r} is no config: give a file, a name, a mapping or an ExperimentConfig")


def _execute(
    source: Path | Mapping[str, Any] | None,
    settings: Sequence[str],
    flags: Mapping[str, Any],
    options: RunOptions,
    listener: Listener | None,
    max_runs: int,
    default_name: str | None,
    cluster: Any = None,
) -> Comparison:
    with ExitStack() as stack:
        worker = stack.enter_context(start_worker()) if cluster is None else None
        loaded = load_config(source, settings=settings, flags=flags, default_name=default_name, max_runs=max_runs)
        site = stack.enter_context(open_site(cluster, loaded, worker))
        plans = plan_tuned(loaded, site, options, listener)
        return run_experiment(loaded, plans, options, site, listener=listener)
