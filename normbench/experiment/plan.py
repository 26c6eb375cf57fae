"""Plans an experiment: from a config to runs; every mistake that can be found without training is found here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from normbench.config.load import AnyExperiment, LoadedConfig
from normbench.config.schema import (
    PARTS_OFF,
    BaseRunConfig,
    DatasetConfig,
    ExperimentConfig,
    LearningRateScaling,
    ModelConfig,
    NormConfig,
    SourceOfVariance,
    Value,
    spell_out_lr,
)
from normbench.config.style import STYLENET
from normbench.data import DATASETS
from normbench.data.own import OPTIONS as OWN_IMAGES_OPTIONS
from normbench.errors import UnknownNameError
from normbench.experiment.needs import check_needs
from normbench.experiment.own import NOTHING_OWN, OwnEntries, missing_dataset, missing_norm
from normbench.models import MODELS, Model
from normbench.norms import NORM_FAMILIES, NormFamily
from normbench.own_code import missing_option, split_weight
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


def draft_runs(loaded: LoadedConfig, own: OwnEntries = NOTHING_OWN) -> list[RunDraft]:
    """Return the runs, seed-major: all norms at all points of the grid come with the first seed first. Needs no torch.

    `own` holds what is of the user's own (`experiment.own.find_own`).

    Raises:
        ConfigError: an unknown norm, model, dataset or option, or two norms with the same label.
    """
    cells = [_draft_cell(cell, own) for cell in loaded.cells]
    probes = _draft_probes(loaded, cells[0], own) if getattr(loaded.experiment, "batch_one", None) is not None else []
    return [
        replace(draft, config={**draft.config, "seed": seed})
        for seed in loaded.experiment.seeds
        for drafts in (*cells, probes, _draft_sources(loaded, cells, is_first=seed == loaded.experiment.seeds[0]))
        for draft in drafts
    ]


def _draft_sources(loaded: LoadedConfig, cells: list[list[RunDraft]], *, is_first: bool) -> list[RunDraft]:
    """Return one seed's runs in which a single thing is not as with the first seed, whose own run is one of each.

    Raises:
        ConfigError: augmentation is to vary, and there is none.
    """
    experiment = loaded.experiment
    sources = getattr(experiment, "sources", ())
    if "augmentation" in sources and any(d.config["train"]["augment"] == "none" for drafts in cells for d in drafts):
        raise loaded.error(("sources",), "augmentation cannot vary where train.augment is none")
    if is_first:
        return []
    first = experiment.seeds[0]
    return [
        replace(
            draft,
            config={
                **draft.config,
                "held": {other: first for other in get_args(SourceOfVariance) if other != source},
                "probe": "variance",
                "probes": None,
            },
            point=", ".join(filter(None, [draft.point, f"{source} alone varies"])),
        )
        for source in sources
        for drafts in cells
        for draft in drafts
    ]


def _draft_cell(loaded: LoadedConfig, own: OwnEntries) -> list[RunDraft]:
    """Return the runs of one seed at one point of the grid."""
    experiment = loaded.experiment
    shared = experiment.model_dump(include=set(TASKS[experiment.task].run_config.model_fields))
    family = MODELS[STYLENET].family
    if isinstance(experiment, ExperimentConfig):
        model = _find_model(loaded, experiment.model, own)
        shared["model"] = _resolve_model(loaded, experiment.model, model)
        shared["dataset"] = _resolve_dataset(loaded, experiment.dataset)
        family = model.family
    norms = [_resolve_norm(loaded, position, norm, family, own) for position, norm in enumerate(experiment.norms)]
    for label, count in Counter(norm.label for norm in norms).items():
        if count > 1:
            position = [norm.label for norm in norms].index(label, [norm.label for norm in norms].index(label) + 1)
            raise loaded.error(("norms", position), f"two norms are called {label!r}; give each its own label")
    _check_baseline(loaded, norms)
    _check_content(loaded)
    drafts = []
    for position, norm in enumerate(norms):
        train = experiment.train_for(experiment.norms[position])
        _check_parts(loaded, position, train, norm, family)
        overrides = spell_out_lr(norm.train)
        if "learning_rate" in overrides:  # as scaled, so that the run's config says the same in both places
            norm = norm.model_copy(update={"train": {**overrides, "learning_rate": train.learning_rate}})
        config = {**shared, "norm": norm.portable(), "train": train.model_dump()}
        _check_files(loaded, position, norm, getattr(experiment, "model", None))
        check_needs(loaded, config, config["train"])
        drafts.append(RunDraft(position, config, loaded.point))
    return drafts


def _draft_probes(loaded: LoadedConfig, drafts: list[RunDraft], own: OwnEntries) -> list[RunDraft]:
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
    short = {"epochs": 1, "batch_size": 1, "learning_rate": rate, **PARTS_OFF}
    changes = {
        "dataset": dataset | {"options": {**dataset["options"], "num_train": probe.steps}},
        "train": train.model_dump() | short,
        "probe": "batch_one",
        "probes": None,
    }
    norms = [(draft.norm_position, draft.config["norm"] | {"train": {}}) for draft in drafts]
    if not any(norm["name"] == "none" for _, norm in norms):
        none = _find_model(loaded, experiment.model, own).family.norms["none"]
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


def _resolve_norm(
    loaded: LoadedConfig, position: int, norm: NormConfig, family: NormFamily, own: OwnEntries
) -> NormConfig:
    base, weight = split_weight(norm.name)
    path = ("norms", position, "name")
    entry = own.norm(norm, base, family)
    if entry is None:
        raise loaded.error(path, missing_norm(norm, family))
    if weight and weight not in family.weights:
        raise loaded.error(
            path, UnknownNameError("weight method", weight, family.weights or (f"({family.kind}s have none)",))
        )
    for option in norm.options:
        if option not in entry.options:
            error = UnknownNameError(f"option of norm {base!r}:", option, entry.options or ("(it has none)",))
            raise loaded.error(("norms", position, "options", option), error)
    for option in entry.required:
        if option not in norm.options:
            raise loaded.error(path, missing_option(base, option))
    label = entry.label + (f"+{family.weights[weight].label}" if weight else "")
    if norm.options:
        label += f" ({', '.join(f'{name}={_text(value)}' for name, value in norm.options.items())})"
    label = norm.label or label[:40]
    if norm.code is not None and any(label in (key, known.label) for key, known in family.norms.items()):
        raise loaded.error(path, f"{norm.name} would be called {label!r} as a norm of NormBench is; give it a label")
    return norm.model_copy(update={"label": label, "options": recorded_options(entry.options, norm.options)})


def _check_parts(loaded: LoadedConfig, position: int, train: Any, norm: NormConfig, family: NormFamily) -> None:
    """Refuse parts of a batch that are larger than it, and statistics synchronized where that cannot be."""
    micro_batch = getattr(train, "micro_batch", None)
    if micro_batch is not None and micro_batch > train.batch_size:
        message = f"{micro_batch} is not allowed: at most the batch size, {train.batch_size}"
        raise loaded.error(("train", "micro_batch"), message)
    if micro_batch is None and getattr(train, "sync_statistics", False):
        message = "true is not allowed without train.micro_batch: a whole batch shares its statistics anyway"
        raise loaded.error(("train", "sync_statistics"), message)
    base = split_weight(norm.name)[0]
    entry = family.norms.get(base)
    has_parts_of_bn = {"center", "deviation", "learn_scale"} & norm.options.keys()
    is_whole_bn = base == "bn" and family.kind == NORM_FAMILIES["image"].kind and not has_parts_of_bn
    can_sync = entry is not None and (is_whole_bn or not entry.batch_dependent)
    if getattr(train, "sync_statistics", False) and not can_sync:
        message = f"{norm.name}: train.sync_statistics is for bn of images, and for norms without statistics of a batch"
        raise loaded.error(("norms", position, "name"), message)


def _check_files(loaded: LoadedConfig, position: int, norm: NormConfig, model: ModelConfig | None) -> None:
    """Refuse a norm and a network whose files have one name: both are copied into the run's folder."""
    if norm.code is None or model is None or model.code is None or norm.code.file != model.code.file:
        return
    if norm.code.sha256 != model.code.sha256:
        message = f"norm and network are in two files that are both called {norm.code.file}; rename one of them"
        raise loaded.error(("norms", position, "name"), message)


def _find_model(loaded: LoadedConfig, config: ModelConfig, own: OwnEntries) -> Model:
    model = own.model(config)
    if model is None:
        raise loaded.error(("model", "name"), UnknownNameError("model", config.name, MODELS))
    if model.task != loaded.experiment.task:
        raise loaded.error(("model", "name"), f"{config.name} is no classifier: train it with `normbench stylize`")
    return model


def _resolve_model(loaded: LoadedConfig, config: ModelConfig, model: Model) -> dict[str, Any]:
    options = _options(loaded, "model", config, model.options)
    for option in model.required:
        if option not in config.options:
            raise loaded.error(("model", "name"), missing_option(config.name, option))
    for name in model.unrecorded_at_default:
        if options[name] == model.options[name]:
            del options[name]
    return {**config.portable(), "options": options}


def _resolve_dataset(loaded: LoadedConfig, dataset: DatasetConfig) -> dict[str, Any]:
    defaults = OWN_IMAGES_OPTIONS if dataset.images is not None else None
    if defaults is None and dataset.name in DATASETS:
        defaults = DATASETS[dataset.name].options
    if defaults is None:
        raise loaded.error(("dataset", "name"), missing_dataset(dataset))
    return {**dataset.portable(), "options": _options(loaded, "dataset", dataset, defaults)}


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
    if isinstance(content, str) and content in DATASETS and count is not None and count > DATASETS[content].max_train:
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
    seeds = tuple(dict.fromkeys(plan.config.seed for plan in plans))
    return experiment.model_copy(update={"norms": norms, "seeds": seeds, **kept})
