"""Groups are repeats of one configuration; sections hold the groups that were measured under equal conditions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePath
from typing import Any, Literal

from normbench.config.schema import DEFAULT_BASELINE
from normbench.errors import UnknownNameError
from normbench.runs.records import ExperimentRecord, RunRecord, State
from normbench.runs.tuning_file import Tuning
from normbench.tasks import TASKS, Measure, Task

Scalar = bool | int | float | str | None
Fields = Mapping[str, Scalar]
"""A configuration by dotted path: ``train.batch_size`` -> 64."""

Setting = tuple[tuple[str, Scalar], ...]
"""The fields that vary between groups, less the norm's own, with this group's values."""


_FOLDER_KEYS = ("features",)
"""Facts of an environment that are folders of other runs, which are the same run wherever they lie."""


@dataclass(frozen=True)
class Group:
    """The runs of one configuration, which differ in nothing but the seed."""

    label: str
    """The norm's name in tables and legends; unique among groups of the same setting."""
    norm: str
    """The norm's key, by which figures choose its style."""
    fields: Fields
    setting: Setting
    """Everything but norm and seed; groups are compared with each other where these are equal."""
    runs: tuple[RunRecord, ...]
    num_planned: int
    """Runs that the experiment asks for; at least those that were started."""

    @classmethod
    def of(cls, run: RunRecord) -> Group:
        """Return the group of one run alone."""
        return cls(run.config.label, run.config.norm.name, {}, (), (run,), 1)

    @cached_property
    def completed(self) -> tuple[RunRecord, ...]:
        """The runs that enter means."""
        return tuple(run for run in self.runs if run.is_completed)

    def scores(self, measure: Measure) -> dict[int, float]:
        """Return the raw measure by seed, of the completed runs in which it was measured, and is a finite number."""
        values = {run.config.seed: measure.of(run.summary) for run in self.completed}
        return {seed: value for seed, value in values.items() if value is not None and math.isfinite(value)}

    @property
    def lost(self) -> frozenset[int]:
        """The seeds of the runs that ended without a result."""
        return frozenset(run.config.seed for run in self.runs if run.status.state in ("diverged", "failed"))

    @property
    def states(self) -> Counter[State]:
        """The number of runs in each state."""
        return Counter(run.status.state for run in self.runs)

    @property
    def count_text(self) -> str:
        """The runs in words: ``4/5, 1 diverged``."""
        rest = [f"{count} {state}" for state, count in sorted(self.states.items()) if state != "completed"]
        if not_started := self.num_planned - len(self.runs):
            rest.append(f"{not_started} not started")
        return ", ".join([f"{len(self.completed)}/{self.num_planned}", *rest])


Rates = Literal["one for all", "each its own", "others"]
"""The learning rates of a section's runs: one for all norms, each norm's own, or some of an earlier tuning."""


@dataclass(frozen=True)
class Section:
    """Groups of one task, measured on the same device with the same software: what may stand in one table."""

    task: Task
    environment: Mapping[str, str]
    groups: tuple[Group, ...]
    varied: tuple[str, ...]
    """Dotted paths of the fields, other than the norm's, that differ between groups."""
    baseline: str | None
    """Label of the norm that the others are compared with."""
    num_planned: int
    """Runs that the experiment asks for, also of configurations that no run has begun."""
    rates: Rates | None = None
    """Of an experiment that tuned learning rates: which of them the runs have; else None."""

    @property
    def rates_text(self) -> str:
        """The section's learning rates in a few words; empty where none was tuned."""
        return {
            None: "",
            "one for all": "one learning rate for all",
            "each its own": "each at its own learning rate",
        }.get(self.rates, "other learning rates")

    @property
    def by_setting(self) -> list[tuple[Group, ...]]:
        """The groups that may be compared with each other, numbers of the setting in increasing order."""
        found: dict[Setting, list[Group]] = {}
        for group in self.groups:
            found.setdefault(group.setting, []).append(group)
        return [tuple(found[setting]) for setting in sorted(found, key=order_of_setting)]

    @property
    def norm_paths(self) -> dict[str, list[str]]:
        """The ways in which norms ran (``fused``, ``native: <reason>``), each with the labels of its norms."""
        found: dict[str, list[str]] = {}
        for group in self.groups:
            for path in dict.fromkeys(run.environment.get("norm_path") for run in group.runs):
                if path and group.label not in found.setdefault(path, []):
                    found[path].append(group.label)
        return found

    @property
    def runs(self) -> list[RunRecord]:
        """All runs of all groups."""
        return [run for group in self.groups for run in group.runs]


def sections(experiment: ExperimentRecord, baseline: str | None = None) -> tuple[Section, ...]:
    """Sort an experiment's runs into sections and groups; more than one section where the measurements do not mix.

    Raises:
        UnknownNameError: `baseline` is given and no run has that norm.
    """
    if baseline is not None:
        names = dict.fromkeys(name for run in experiment.runs for name in (run.config.label, run.config.norm.name))
        if baseline not in names:
            raise UnknownNameError("baseline norm", baseline, names)
    wanted = baseline or experiment.settings.get("baseline") or DEFAULT_BASELINE
    conditions: dict[tuple[str, tuple[tuple[str, str], ...]], list[RunRecord]] = {}
    for run, environment in zip(experiment.runs, environments(experiment.runs), strict=True):
        conditions.setdefault((run.task.name, environment), []).append(run)
    seeds = experiment.settings.get("seeds", ())
    is_whole = len(conditions) == 1
    num_seeds = len(seeds) if isinstance(seeds, list | tuple) and is_whole else 0
    num_planned = num_seeds * _num_configurations(experiment.settings)
    overridden = _overridden(experiment)
    return tuple(
        replace(
            _section(TASKS[task], dict(environment), chosen, overridden, num_seeds, num_planned, wanted), rates=rates
        )
        for (task, environment), runs in conditions.items()
        for rates, chosen in by_rates(runs, experiment.tuning)
    )


def unpaired(section: Section, sections: Sequence[Section]) -> dict[tuple[tuple[str, str], ...], dict[str, set[int]]]:
    """Return the completed runs of `section` whose baseline ran with their seed in another of `sections` alone.

    By the environment of that other section, the labels of groups with their seeds. Such runs enter no difference:
    what was computed on devices of two names does not make a pair.
    """
    found: dict[tuple[tuple[str, str], ...], dict[str, set[int]]] = {}
    bases = [(other, group) for other in sections for group in other.groups if group.label == other.baseline]
    free = {"device", "train.precision"} | ({"train.learning_rate"} if section.rates == "each its own" else set())
    free |= {f"train.{key}" for other in sections for run in other.runs for key in run.config.norm.train}
    for group in section.groups:
        partners = [
            (other, {run.config.seed for run in base.completed})
            for other, base in bases
            if (other.task, other.rates) == (section.task, section.rates)
            and _setting(base, free) == _setting(group, free)
        ]
        here = {seed for other, seeds in partners if other is section for seed in seeds}
        left = {run.config.seed for run in group.completed} - here
        for other, seeds in partners:
            if lonely := left & seeds:
                key = tuple(other.environment.items())
                found.setdefault(key, {}).setdefault(group.label, set()).update(lonely)
    return found


def by_rates(runs: Sequence[RunRecord], tuning: Tuning) -> list[tuple[Rates | None, list[RunRecord]]]:
    """Return the runs at one rate for all norms, and those at each norm's own; a run may be both.

    All of them at once where no rate was tuned.
    """
    if not tuning.trials:
        return [(None, list(runs))]
    own = tuning.chosen
    found: dict[Rates, list[RunRecord]] = {"one for all": [], "each its own": [], "others": []}
    for run in runs:
        rate = run.config.train.learning_rate
        kinds: list[Rates] = ["one for all"] * (rate == tuning.shared_rate)
        kinds += ["each its own"] * (rate == own.get(run.config.label))
        for kind in kinds or ["others"]:
            found[kind].append(run)
    return [(kind, chosen) for kind, chosen in found.items() if chosen]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Scalar]:
    """Return nested mappings as one, keyed by dotted path."""
    flat: dict[str, Scalar] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, bool | int | float | str | None) else str(value)
    return flat


def order_of_setting(setting: Setting) -> list[tuple[float, str]]:
    """Return a key that sorts settings: numbers by size and before words."""
    return [
        (float(value), "") if isinstance(value, int | float) else (float("inf"), str(value)) for _, value in setting
    ]


def environments(runs: Sequence[RunRecord]) -> list[tuple[tuple[str, str], ...]]:
    """Return what each run was measured on; a run that recorded nothing counts with the others of its device."""
    found = [
        tuple((key, value) for key in run.task.environment_keys if (value := recorded(run, key)) is not None)
        for run in runs
    ]
    common: dict[str, tuple[tuple[str, str], ...]] = {}
    for run, environment in zip(runs, found, strict=True):
        if environment:
            common.setdefault(run.config.device, environment)
    return [
        (("device", run.config.device), *(environment or common.get(run.config.device, ())))
        for run, environment in zip(runs, found, strict=True)
    ]


def recorded(run: RunRecord, key: str) -> str | None:
    """Return what the run recorded of its environment under `key`, a run's folder by its name; None if nothing."""
    value = run.environment.get(key)
    if value is None:
        return None
    return PurePath(str(value)).name if key in _FOLDER_KEYS else str(value)


def _num_configurations(settings: Mapping[str, Any]) -> int:
    """Return how many norms there are times how many points of the grid."""
    grid = settings.get("grid") or {}
    return len(settings.get("norms") or ()) * math.prod(len(values) for values in grid.values())


def _overridden(experiment: ExperimentRecord) -> frozenset[str]:
    """Return the training fields that some norm sets for itself: they belong to the norm, not to the setting."""
    own = [norm.get("train") or {} for norm in experiment.settings.get("norms", []) if isinstance(norm, Mapping)]
    own += [run.config.norm.train for run in experiment.runs]
    if experiment.tuning.trials:
        own.append({"learning_rate": None})
    return frozenset(f"train.{'learning_rate' if key == 'lr' else key}" for train in own for key in train)


def _setting(group: Group, free: Collection[str]) -> dict[str, Scalar]:
    """Return what norms of one setting have in common: all fields but the norm's own and the `free` ones."""
    return {path: value for path, value in group.fields.items() if not path.startswith("norm.") and path not in free}


def _section(
    task: Task,
    environment: Mapping[str, str],
    runs: Iterable[RunRecord],
    overridden: frozenset[str],
    num_seeds: int,
    num_planned: int,
    baseline: str,
) -> Section:
    members: dict[tuple[tuple[str, Scalar], ...], list[RunRecord]] = {}
    for run in runs:
        fields = flatten(run.config.model_dump(exclude={"task", "seed"}))
        members.setdefault(tuple(sorted(fields.items())), []).append(run)
    keys = sorted({path for fields in members for path, _ in fields if not path.startswith("norm.")})
    varied = tuple(key for key in keys if len({dict(fields).get(key) for fields in members}) > 1)
    shared = [key for key in varied if key not in overridden]
    found = [(dict(items), group_runs) for items, group_runs in members.items()]
    settings = [tuple((key, fields.get(key)) for key in shared) for fields, _ in found]
    labels = _unique_labels([group_runs[0] for _, group_runs in found], settings)
    groups = tuple(
        Group(
            label, group_runs[0].config.norm.name, fields, setting, tuple(group_runs), max(len(group_runs), num_seeds)
        )
        for (fields, group_runs), setting, label in zip(found, settings, labels, strict=True)
    )
    by_name = [group.label for group in groups if group.norm == baseline]
    resolved = baseline if baseline in labels else by_name[0] if by_name else None
    num_planned = max(num_planned, sum(group.num_planned for group in groups))
    return Section(task, environment, groups, varied, resolved, num_planned)


def _unique_labels(runs: Sequence[RunRecord], settings: Sequence[Hashable]) -> list[str]:
    """Return the norms' labels; where two of a setting are the same, with options or the file's hash, then numbers."""
    labels = [run.config.label for run in runs]
    counts = Counter(zip(settings, labels, strict=True))
    for index, (run, setting) in enumerate(zip(runs, settings, strict=True)):
        if counts[setting, labels[index]] > 1 and (code := run.config.norm.code) is not None:
            labels[index] = f"{labels[index]} ({code.file} {code.sha256[:8]})"
        elif counts[setting, labels[index]] > 1 and run.config.norm.options:
            options = ", ".join(f"{name}={value}" for name, value in run.config.norm.options.items())
            labels[index] = f"{labels[index]} ({options})"
    used: Counter[tuple[Hashable, str]] = Counter()
    for index, setting in enumerate(settings):
        used[setting, labels[index]] += 1
        if (number := used[setting, labels[index]]) > 1:
            labels[index] = f"{labels[index]} #{number}"
    return labels
