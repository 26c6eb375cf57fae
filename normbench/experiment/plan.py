"""From a config to runs with nothing left to decide; every mistake that can be found without training is found here."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from normbench.config.load import LoadedConfig, train_for
from normbench.config.schema import (
    DatasetConfig,
    ExperimentConfig,
    LearningRateScaling,
    ModelConfig,
    NormConfig,
    RunConfig,
    Value,
    spell_out_lr,
)
from normbench.data import DATASETS
from normbench.errors import ConfigError, NormBenchError, UnknownNameError
from normbench.models import MODELS
from normbench.norms import NormFamily


@dataclass(frozen=True)
class RunPlan:
    """One planned run: its folder's name, its config, and the position of its norm in the experiment."""

    run_id: str
    config: RunConfig
    norm_position: int
    point: str = ""
    """What sets it apart from runs of the same norm and seed: the point of a grid, or a probe."""


@dataclass(frozen=True)
class Draft:
    """A run whose device, precision and engine are still `auto`, in plain data for the process that knows them."""

    norm_position: int
    config: Mapping[str, Any]
    """What `RunConfig` takes."""
    point: str
    """See `RunPlan.point`."""


def draft_runs(loaded: LoadedConfig) -> list[Draft]:
    """Return the runs, seed-major: all norms at all points of the grid come with the first seed first. Needs no torch.

    Raises:
        ConfigError: an unknown norm, model, dataset or option, or two norms with the same label.
    """
    cells = [_draft_cell(cell) for cell in loaded.cells]
    probes = _draft_probes(loaded, cells[0]) if loaded.experiment.batch_one is not None else []
    return [
        replace(draft, config={**draft.config, "seed": seed})
        for seed in loaded.experiment.seeds
        for drafts in (*cells, probes)
        for draft in drafts
    ]


def _draft_cell(loaded: LoadedConfig) -> list[Draft]:
    """Return the runs of one seed at one point of the grid."""
    experiment = loaded.experiment
    model = _resolve_model(loaded)
    family = MODELS[model.name].family
    norms = [_resolve_norm(loaded, position, norm, family) for position, norm in enumerate(experiment.norms)]
    for label, count in Counter(norm.label for norm in norms).items():
        if count > 1:
            position = [norm.label for norm in norms].index(label, [norm.label for norm in norms].index(label) + 1)
            raise loaded.error(("norms", position), f"two norms are called {label!r}; give each its own label")
    dataset = _resolve_dataset(loaded)
    _check_baseline(loaded, norms)
    drafts = []
    for position, norm in enumerate(norms):
        train = train_for(experiment, experiment.norms[position])
        own = spell_out_lr(norm.train)
        if "learning_rate" in own:  # as scaled, so that the run's config says the same in both places
            norm = norm.model_copy(update={"train": {**own, "learning_rate": train.learning_rate}})
        config = {
            "norm": norm.model_dump(),
            "model": model.model_dump(),
            "dataset": dataset.model_dump(),
            "train": train.model_dump(),
            "device": experiment.device,
            "probe": experiment.probe,
        }
        drafts.append(Draft(position, config, loaded.point))
    return drafts


def _draft_probes(loaded: LoadedConfig, drafts: list[Draft]) -> list[Draft]:
    """Return one seed's runs at batch size 1, all trained alike: the experiment's norms and, as their measure, none."""
    experiment = loaded.experiment
    probe, train = experiment.batch_one, experiment.train
    assert probe is not None
    dataset = dict(drafts[0].config["dataset"])
    available = dataset["options"].get("num_train")
    if available is not None and probe.steps > available:
        raise loaded.error(
            ("batch_one", "steps"), f"{probe.steps} steps take as many images; the data set has {available} (num_train)"
        )
    scaling = LearningRateScaling(
        rule="linear" if train.optimizer == "sgd" else "sqrt", reference_batch_size=train.batch_size
    )
    rate = probe.learning_rate or scaling.learning_rate(train.learning_rate, 1)
    changes = {
        "dataset": dataset | {"options": {**dataset["options"], "num_train": probe.steps}},
        "train": train.model_dump() | {"epochs": 1, "batch_size": 1, "learning_rate": rate},
        "probe": "batch_one",
    }
    norms = [(draft.norm_position, draft.config["norm"] | {"train": {}}) for draft in drafts]
    if not any(norm["name"] == "none" for _, norm in norms):
        none = MODELS[drafts[0].config["model"]["name"]].family.norms["none"]
        options = {name: option.default for name, option in none.options.items()}
        norms.append((len(norms), NormConfig(name="none", options=options, label=none.label).model_dump()))
    return [
        Draft(position, {**drafts[0].config, **changes, "norm": norm}, "at batch size 1") for position, norm in norms
    ]


def finish_plans(drafts: list[Draft]) -> Iterator[list[RunPlan]]:
    """Resolve device, precision and engine, and build every model without memory; runs where torch is.

    Yields once: the plans, without repetitions.

    Raises:
        PlanError: a norm or model cannot be built, or a device, precision or engine does not exist here.
    """
    from normbench.engine.device import resolve_device, resolve_engine, resolve_precision
    from normbench.worker.build import check_model

    plans: dict[str, RunPlan] = {}
    checked: set[str] = set()
    for draft in drafts:
        device = resolve_device(draft.config["device"])
        train = dict(draft.config["train"])
        train["precision"] = resolve_precision(train["precision"], device)
        train["engine"] = resolve_engine(train["engine"], device)
        config = RunConfig.model_validate({**draft.config, "device": device, "train": train})
        key = json.dumps([config.norm.model_dump(), config.model.model_dump(), config.train.batch_size])
        if key not in checked:
            try:
                check_model(config)
            except NormBenchError as error:
                raise PlanError(draft.norm_position, str(error)) from error
            checked.add(key)
        run_id = run_id_of(config)
        plans.setdefault(run_id, RunPlan(run_id, config, draft.norm_position, draft.point))
    yield list(plans.values())


class PlanError(ConfigError):
    """A norm of the experiment cannot be built; the message starts with its position, for the parent to locate."""

    def __init__(self, norm_position: int, message: str) -> None:
        super().__init__(f"{norm_position}|{message}")


def run_id_of(config: RunConfig) -> str:
    """Return the run's folder name: ``gn-norm_resnet-bs64-s0-3f2a9c1b``, at most 64 characters of ``[a-z0-9._+-]``.

    The hash covers all that decides the outcome, so that the same config finds its run; a label does not.
    """
    content = config.model_dump(mode="json")
    del content["norm"]["label"], content["norm"]["train"]  # the latter is in config.train already
    if config.probe is None:
        del content["probe"]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    tail = f"-bs{config.train.batch_size}-s{config.seed}-{digest}"
    head = re.sub(r"[^a-z0-9._+-]", "_", f"{config.norm.name}-{config.model.name}".lower())
    return head[: 64 - len(tail)] + tail


def _resolve_norm(loaded: LoadedConfig, position: int, norm: NormConfig, family: NormFamily) -> NormConfig:
    base, plus, weight = norm.name.partition("+")
    path = ("norms", position, "name")
    if base not in family.norms:
        raise loaded.error(path, UnknownNameError(family.kind, norm.name, family.norms))
    if plus and weight not in family.weights:
        raise loaded.error(
            path, UnknownNameError("weight method", weight, family.weights or (f"({family.kind}s have none)",))
        )
    entry = family.norms[base]
    for option in norm.options:
        if option not in entry.options:
            error = UnknownNameError(f"option of norm {base!r}:", option, entry.options or ("(it has none)",))
            raise loaded.error(("norms", position, "options", option), error)
    label = entry.label + (f"+{family.weights[weight].label}" if plus else "")
    if norm.options:
        label += f" ({', '.join(f'{name}={_text(value)}' for name, value in norm.options.items())})"
    options = {name: option.default for name, option in entry.options.items()} | dict(norm.options)
    return norm.model_copy(update={"label": norm.label or label[:40], "options": options})


def _resolve_model(loaded: LoadedConfig) -> ModelConfig:
    model = loaded.experiment.model
    if model.name not in MODELS:
        raise loaded.error(("model", "name"), UnknownNameError("model", model.name, MODELS))
    if MODELS[model.name].task != "classification":
        raise loaded.error(("model", "name"), f"{model.name} is no classifier: train it with `normbench stylize`")
    return model.model_copy(update={"options": _options(loaded, "model", model, MODELS[model.name].options)})


def _resolve_dataset(loaded: LoadedConfig) -> DatasetConfig:
    dataset = loaded.experiment.dataset
    if dataset.name not in DATASETS:
        raise loaded.error(("dataset", "name"), UnknownNameError("dataset", dataset.name, DATASETS))
    return dataset.model_copy(update={"options": _options(loaded, "dataset", dataset, DATASETS[dataset.name].options)})


def _options(
    loaded: LoadedConfig, section: str, chosen: ModelConfig | DatasetConfig, defaults: Mapping[str, Value]
) -> dict[str, Value]:
    for option in chosen.options:
        if option not in defaults:
            error = UnknownNameError(f"option of {section} {chosen.name!r}:", option, defaults or ("(it has none)",))
            raise loaded.error((section, "options", option), error)
    return {**defaults, **chosen.options}


def _check_baseline(loaded: LoadedConfig, norms: list[NormConfig]) -> None:
    baseline = loaded.experiment.baseline
    if baseline is not None and not any(baseline in (norm.name, norm.label) for norm in norms):
        labels = [norm.label or norm.name for norm in norms]
        raise loaded.error(("baseline",), UnknownNameError("baseline", baseline, labels))


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def resolved_experiment(experiment: ExperimentConfig, plans: list[RunPlan]) -> ExperimentConfig:
    """Return the experiment as it was run: defaults filled in, labels final."""
    first = plans[0].config
    resolved = {
        position: next(plan.config.norm for plan in plans if plan.norm_position == position)
        for position in range(len(experiment.norms))
    }
    norms = tuple(
        resolved[position].model_copy(update={"train": norm.train}) for position, norm in enumerate(experiment.norms)
    )
    swept = {path.partition(".")[0] for path in experiment.grid}
    defaults = {"model": first.model, "dataset": first.dataset}
    kept = {section: value for section, value in defaults.items() if section not in swept}
    return experiment.model_copy(update={"norms": norms, **kept})
