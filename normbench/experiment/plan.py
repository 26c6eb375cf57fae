"""Plans an experiment: from a config to runs; every mistake that can be found without training is found here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from normbench.config.load import AnyExperiment, LoadedConfig
from normbench.config.schema import (
    BaseRunConfig,
    DatasetConfig,
    ExperimentConfig,
    LearningRateScaling,
    ModelConfig,
    NormConfig,
    Value,
    spell_out_lr,
)
from normbench.data import DATASETS
from normbench.errors import UnknownNameError
from normbench.experiment.needs import check_needs
from normbench.models import MODELS
from normbench.norms import NormFamily
from normbench.registry import recorded_options
from normbench.tasks import TASKS
from normbench.worker.targets import RunDraft


@dataclass(frozen=True)
class RunPlan:
    """One planned run: its folder's name, its config, and the position of its norm in the experiment."""

    run_id: str
    config: BaseRunConfig
    norm_position: int
    point: str = ""
    """What sets it apart from runs of the same norm and seed: the point of a grid, or a probe."""


def draft_runs(loaded: LoadedConfig) -> list[RunDraft]:
    """Return the runs, seed-major: all norms at all points of the grid come with the first seed first. Needs no torch.

    Raises:
        ConfigError: an unknown norm, model, dataset or option, or two norms with the same label.
    """
    cells = [_draft_cell(cell) for cell in loaded.cells]
    probes = _draft_probes(loaded, cells[0]) if getattr(loaded.experiment, "batch_one", None) is not None else []
    return [
        replace(draft, config={**draft.config, "seed": seed})
        for seed in loaded.experiment.seeds
        for drafts in (*cells, probes)
        for draft in drafts
    ]


def _draft_cell(loaded: LoadedConfig) -> list[RunDraft]:
    """Return the runs of one seed at one point of the grid."""
    experiment = loaded.experiment
    shared = experiment.model_dump(include=set(TASKS[experiment.task].run_config.model_fields))
    for section, resolve in (("model", _resolve_model), ("dataset", _resolve_dataset)):
        if section in shared:
            shared[section] = resolve(loaded)
    family = MODELS[experiment.model_name].family
    norms = [_resolve_norm(loaded, position, norm, family) for position, norm in enumerate(experiment.norms)]
    for label, count in Counter(norm.label for norm in norms).items():
        if count > 1:
            position = [norm.label for norm in norms].index(label, [norm.label for norm in norms].index(label) + 1)
            raise loaded.error(("norms", position), f"two norms are called {label!r}; give each its own label")
    _check_baseline(loaded, norms)
    _check_content(loaded)
    drafts = []
    for position, norm in enumerate(norms):
        train = experiment.train_for(experiment.norms[position])
        own = spell_out_lr(norm.train)
        if "learning_rate" in own:  # as scaled, so that the run's config says the same in both places
            norm = norm.model_copy(update={"train": {**own, "learning_rate": train.learning_rate}})
        config = {**shared, "norm": norm.model_dump(), "train": train.model_dump()}
        check_needs(loaded, config, config["train"])
        drafts.append(RunDraft(position, config, loaded.point))
    return drafts


def _draft_probes(loaded: LoadedConfig, drafts: list[RunDraft]) -> list[RunDraft]:
    """Return one seed's runs at batch size 1, all trained alike: the experiment's norms and, as their measure, none."""
    experiment = loaded.experiment
    assert isinstance(experiment, ExperimentConfig)
    probe, train = experiment.batch_one, experiment.train
    assert probe is not None
    dataset = dict(drafts[0].config["dataset"])
    given = dataset["options"].get("num_train")
    available = given if isinstance(given, int) and given > 0 else DATASETS[dataset["name"]].max_train
    if probe.steps > available:
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
        options = recorded_options(none.options, {})
        norms.append((len(norms), NormConfig(name="none", options=options, label=none.label).model_dump()))
    return [
        RunDraft(position, {**drafts[0].config, **changes, "norm": norm}, "at batch size 1") for position, norm in norms
    ]


def finish_plans(drafts: Sequence[RunDraft], configs: Sequence[BaseRunConfig]) -> list[RunPlan]:
    """Return the plans, without repetitions, of drafts whose configs are resolved (`worker.targets.resolve_runs`)."""
    plans: dict[str, RunPlan] = {}
    for draft, config in zip(drafts, configs, strict=True):
        plans.setdefault(config.run_id, RunPlan(config.run_id, config, draft.norm_position, draft.point))
    return list(plans.values())


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
    options = recorded_options(entry.options, norm.options)
    return norm.model_copy(update={"label": norm.label or label[:40], "options": options})


def _resolve_model(loaded: LoadedConfig) -> dict[str, Any]:
    model = loaded.experiment.model  # type: ignore[union-attr]
    if model.name not in MODELS:
        raise loaded.error(("model", "name"), UnknownNameError("model", model.name, MODELS))
    if MODELS[model.name].task != loaded.experiment.task:
        raise loaded.error(("model", "name"), f"{model.name} is no classifier: train it with `normbench stylize`")
    entry = MODELS[model.name]
    options = _options(loaded, "model", model, entry.options)
    for name in entry.unrecorded_at_default:
        if options[name] == entry.options[name]:
            del options[name]
    return {**model.model_dump(), "options": options}


def _resolve_dataset(loaded: LoadedConfig) -> dict[str, Any]:
    dataset = loaded.experiment.dataset  # type: ignore[union-attr]
    if dataset.name not in DATASETS:
        raise loaded.error(("dataset", "name"), UnknownNameError("dataset", dataset.name, DATASETS))
    return {**dataset.model_dump(), "options": _options(loaded, "dataset", dataset, DATASETS[dataset.name].options)}


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


def _check_content(loaded: LoadedConfig) -> None:
    """Raise `ConfigError` if style transfer is to train on more images of a data set than it has."""
    content, count = (getattr(loaded.experiment, name, None) for name in ("content", "num_content"))
    if content in DATASETS and count is not None and count > DATASETS[content].max_train:
        raise loaded.error(("num_content",), f"{count} images; {content} has at most {DATASETS[content].max_train:,}")


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def resolved_experiment(experiment: AnyExperiment, plans: Sequence[RunPlan]) -> AnyExperiment:
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
    kept = {
        section: getattr(first, section)
        for section in ("model", "dataset")
        if hasattr(first, section) and section not in swept
    }
    return experiment.model_copy(update={"norms": norms, **kept})
