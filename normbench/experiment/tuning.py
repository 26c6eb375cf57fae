"""Tunes each norm's learning rate before a comparison, which it plans at each norm's own rate and at one for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from normbench.config.load import LoadedConfig
from normbench.config.schema import DatasetConfig, ExperimentConfig, spell_out_lr
from normbench.config.tuning import TuneConfig
from normbench.data import DATASETS
from normbench.errors import ConfigError, RunError
from normbench.experiment.execute import Listener, RunOptions, plan_experiment, run_experiment
from normbench.experiment.plan import RunPlan
from normbench.experiment.progress import note
from normbench.experiment.site import Site
from normbench.runs.records import ExperimentRecord, read_experiment
from normbench.runs.tuning_file import Trial, Tuning, write_tuning
from normbench.runs.writer import folder_errors

_SUFFIX = "-tune"


def is_tuned(loaded: LoadedConfig) -> bool:
    """Return whether the config asks for each norm's own learning rate."""
    return getattr(loaded.experiment, "tune", None) is not None


def plan_tuned(
    loaded: LoadedConfig, site: Site, options: RunOptions, listener: Listener | None = None
) -> list[RunPlan]:
    """Return the comparison's runs: at one learning rate for all norms, and those that are tuned at each's own.

    The tuning itself is run first, in an experiment of its own beside it, and goes on where it was left.

    Raises:
        ConfigError: as `plan_experiment`, or the data set has no split to tune on.
        RunError: a run of the tuning did not end.
    """
    plans = plan_experiment(loaded, site.process, options.data_dir)
    if not is_tuned(loaded):
        return plans
    if options.shard is not None:
        raise ConfigError("--shard: tune chooses learning rates by all of its runs; train it in one place")
    tuning = _tune(loaded, site, options, listener)
    folder = options.runs_dir / loaded.experiment.name
    with folder_errors(folder):
        write_tuning(folder, tuning)
    rates = ", ".join(f"{label} {rate:.3g}" for label, rate in tuning.chosen.items())
    note(f"normbench: learning rates chosen: {rates}")
    own = plan_experiment(_at_own_rates(loaded, plans, tuning), site.process, options.data_dir)
    if tuning.shared_rate is None:
        return own
    shared = {plan.run_id for plan in plans}
    by_seed = {seed: position for position, seed in enumerate(loaded.experiment.seeds)}
    both = [*plans, *(replace(plan, point="own rate") for plan in own if plan.run_id not in shared)]
    return sorted(both, key=lambda plan: by_seed[plan.config.seed])


def tuning_of(loaded: LoadedConfig) -> LoadedConfig:
    """Return the experiment that tunes: every norm at every rate, with seeds of its own, on the split to tune on.

    Raises:
        ConfigError: the data set has no such split.
    """
    experiment, tune = _parts(loaded)
    options = dict(experiment.dataset.options)
    if tune.split == "val":
        _check_holds_out(experiment.dataset)
        options["eval_split"] = "val"
    base = experiment.model_copy(
        update={
            "name": experiment.name[: 64 - len(_SUFFIX)] + _SUFFIX,
            "seeds": tune.tuning_seeds,
            "dataset": experiment.dataset.model_copy(update={"options": options}),
            "tune": None,
            "batch_one": None,
            "sources": (),
            "evaluate": None,
            "probes": None,
            "grid": {},
        }
    )
    cells = tuple(
        replace(
            loaded,
            experiment=base.model_copy(update={"train": base.train.model_copy(update={"learning_rate": rate})}),
            point=f"learning rate {rate:g}",
        )
        for rate in tune.rates
    )
    whole = base.model_copy(update={"grid": {"train.learning_rate": tune.rates}})
    return replace(loaded, experiment=whole, grid_cells=cells)


def trials(record: ExperimentRecord, tune: TuneConfig) -> tuple[Trial, ...]:
    """Return what the runs of a tuning came to."""
    found: dict[tuple[str, float], dict[int, float | None]] = {}
    for run in record.runs:
        if run.config.seed in tune.tuning_seeds and run.config.train.learning_rate in tune.rates:
            accuracy = run.summary.test_accuracy if run.is_completed else None
            found.setdefault((run.config.label, run.config.train.learning_rate), {})[run.config.seed] = accuracy
    return tuple(
        Trial(label=label, learning_rate=rate, accuracies=tuple(by_seed[seed] for seed in sorted(by_seed)))
        for (label, rate), by_seed in found.items()
    )


def _tune(loaded: LoadedConfig, site: Site, options: RunOptions, listener: Listener | None) -> Tuning:
    experiment, tune = _parts(loaded)
    tuning = tuning_of(loaded)
    note(
        f"normbench: tuning: {len(experiment.norms)} norms at {len(tune.rates)} learning rates (seeds: {tune.seeds}), "
        f"in {options.runs_dir / tuning.experiment.name}"
    )
    with site.again() as place:
        plans = plan_experiment(tuning, place.process, options.data_dir)
        own_options = replace(options, max_seeds=None, baseline_from=None, shard=None, times_norms=False)
        comparison = run_experiment(tuning, plans, own_options, place, listener=listener)
    record = read_experiment(comparison.folder)
    ended = {run.run_id for run in record.runs if run.status.state in ("completed", "diverged")}
    left = [plan.run_id for plan in plans if plan.run_id not in ended]
    if left:
        raise RunError(
            f"{comparison.folder}: {len(left)} of {len(plans)} runs of the tuning have no result, {left[0]} for one; "
            "no learning rate is chosen without them"
        )
    return Tuning(
        experiment=tuning.experiment.name,
        split=tune.split,
        seeds=tune.tuning_seeds,
        shared_rate=experiment.train.learning_rate if tune.shared_rate else None,
        trials=trials(record, tune),
    )


def _check_holds_out(dataset: DatasetConfig) -> None:
    known = DATASETS.get(dataset.name)
    if known is not None and "eval_split" not in known.options:
        raise ConfigError(
            f"tune.split: data set {dataset.name} holds no training images out; with tune.split: test rates are "
            "chosen on the test images, which flatters every norm"
        )


def _at_own_rates(loaded: LoadedConfig, plans: Sequence[RunPlan], tuning: Tuning) -> LoadedConfig:
    labels = {plan.norm_position: plan.config.label for plan in plans}
    norms = tuple(
        norm.model_copy(
            update={"train": {**spell_out_lr(norm.train), "learning_rate": tuning.chosen[labels[position]]}}
        )
        for position, norm in enumerate(loaded.experiment.norms)
    )
    update = {"norms": norms, "batch_one": None, "sources": ()}
    return replace(loaded, experiment=loaded.experiment.model_copy(update=update))


def _parts(loaded: LoadedConfig) -> tuple[ExperimentConfig, TuneConfig]:
    experiment = loaded.experiment
    assert isinstance(experiment, ExperimentConfig)
    assert experiment.tune is not None
    return experiment, experiment.tune
