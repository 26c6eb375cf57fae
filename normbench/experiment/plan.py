"""From a config to runs with nothing left to decide; every mistake that can be found without training is found here."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from normbench.config import DatasetConfig, ExperimentConfig, ModelConfig, NormConfig, RunConfig, Value
from normbench.data import DATASETS
from normbench.errors import ConfigError, NormBenchError, UnknownNameError
from normbench.loader import LoadedConfig, train_for
from normbench.models import MODELS
from normbench.norms import NORMS, WEIGHTS


@dataclass(frozen=True)
class RunPlan:
    """One planned run: its folder's name, its config, and the position of its norm in the experiment."""

    run_id: str
    config: RunConfig
    norm_position: int


@dataclass(frozen=True)
class Draft:
    """A run whose device, precision and engine are still `auto`, in plain data for the process that knows them."""

    norm_position: int
    config: Mapping[str, Any]
    """What `RunConfig` takes."""


def draft_runs(loaded: LoadedConfig) -> list[Draft]:
    """Return the runs, seed-major: all norms of the first seed come first. Needs no torch.

    Raises:
        ConfigError: an unknown norm, model, dataset or option, or two norms with the same label.
    """
    experiment = loaded.experiment
    norms = [_resolve_norm(loaded, position, norm) for position, norm in enumerate(experiment.norms)]
    for label, count in Counter(norm.label for norm in norms).items():
        if count > 1:
            position = [norm.label for norm in norms].index(label, [norm.label for norm in norms].index(label) + 1)
            raise loaded.error(("norms", position), f"two norms are called {label!r}; give each its own label")
    model = _resolve_model(loaded)
    dataset = _resolve_dataset(loaded)
    _check_baseline(loaded, norms)
    return [
        Draft(
            position,
            {
                "norm": norm.model_dump(),
                "model": model.model_dump(),
                "dataset": dataset.model_dump(),
                "train": train_for(experiment, experiment.norms[position]).model_dump(),
                "seed": seed,
                "device": experiment.device,
            },
        )
        for seed in experiment.seeds
        for position, norm in enumerate(norms)
    ]


def finish_plans(drafts: list[Draft]) -> Iterator[list[RunPlan]]:
    """Resolve device, precision and engine, and build every model without memory; runs where torch is.

    Yields once: the plans, without repetitions.

    Raises:
        PlanError: a norm or model cannot be built, or a device, precision or engine does not exist here.
    """
    from normbench.engine.device import resolve_device, resolve_engine, resolve_precision
    from normbench.experiment.build import check_model

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
        plans.setdefault(run_id, RunPlan(run_id, config, draft.norm_position))
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
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    tail = f"-bs{config.train.batch_size}-s{config.seed}-{digest}"
    head = re.sub(r"[^a-z0-9._+-]", "_", f"{config.norm.name}-{config.model.name}".lower())
    return head[: 64 - len(tail)] + tail


def _resolve_norm(loaded: LoadedConfig, position: int, norm: NormConfig) -> NormConfig:
    base, plus, weight = norm.name.partition("+")
    path = ("norms", position, "name")
    if base not in NORMS:
        raise loaded.error(path, UnknownNameError("norm", norm.name, NORMS))
    if plus and weight not in WEIGHTS:
        raise loaded.error(path, UnknownNameError("weight method", weight, WEIGHTS))
    entry = NORMS[base]
    for option in norm.options:
        if option not in entry.options:
            error = UnknownNameError(f"option of norm {base!r}:", option, entry.options or ("(it has none)",))
            raise loaded.error(("norms", position, "options", option), error)
    label = entry.label + (f"+{WEIGHTS[weight].label}" if plus else "")
    if norm.options:
        label += f" ({', '.join(f'{name}={_text(value)}' for name, value in norm.options.items())})"
    options = {name: option.default for name, option in entry.options.items()} | dict(norm.options)
    return norm.model_copy(update={"label": norm.label or label[:40], "options": options})


def _resolve_model(loaded: LoadedConfig) -> ModelConfig:
    model = loaded.experiment.model
    if model.name not in MODELS:
        raise loaded.error(("model", "name"), UnknownNameError("model", model.name, MODELS))
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
    norms = {plan.norm_position: plan.config.norm for plan in plans}
    first = plans[0].config
    return experiment.model_copy(
        update={
            "norms": tuple(norms[position] for position in sorted(norms)),
            "model": first.model,
            "dataset": first.dataset,
        }
    )
