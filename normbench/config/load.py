"""Reads config files, ``--set`` and flags into a validated experiment.

Errors name file, line, path, value, what is allowed and the nearest valid name.
One precedence: flag > --set > file > default.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from normbench.config.bounds import MAX_RUNS, first_problem
from normbench.config.grid import cell_data
from normbench.config.messages import Key, Sections, explain, located
from normbench.config.naming import question_name
from normbench.config.overrides import assign
from normbench.config.probes import CurvatureConfig, LandscapeConfig, ProbesConfig, SignalsConfig
from normbench.config.schema import (
    AnalysisConfig,
    BatchOneConfig,
    DatasetConfig,
    EvaluateConfig,
    ExperimentConfig,
    LearningRateScaling,
    ModelConfig,
    NormConfig,
    TrainConfig,
)
from normbench.config.style import StyleExperimentConfig, StyleTrainConfig
from normbench.config.tuning import TuneConfig
from normbench.config.yaml_reader import parse_options, parse_value, read_yaml
from normbench.errors import ConfigError, UnknownNameError

__all__ = ["LoadedConfig", "load_config", "parse_options", "task_name"]

AnyExperiment = ExperimentConfig | StyleExperimentConfig

_SECTIONS: Mapping[str, Sections] = {
    "classification": {
        "": ExperimentConfig,
        "norms": NormConfig,
        "model": ModelConfig,
        "dataset": DatasetConfig,
        "train": TrainConfig,
        "lr_scaling": LearningRateScaling,
        "batch_one": BatchOneConfig,
        "tune": TuneConfig,
        "analysis": AnalysisConfig,
        "probes": ProbesConfig,
        "probes.landscape": LandscapeConfig,
        "probes.signals": SignalsConfig,
        "probes.curvature": CurvatureConfig,
        "evaluate": EvaluateConfig,
    },
    "style_transfer": {
        "": StyleExperimentConfig,
        "norms": NormConfig,
        "train": StyleTrainConfig,
        "analysis": AnalysisConfig,
    },
}
"""The sections of a config by task and name; the whole of it by the empty name."""

_STYLE_KEYS = frozenset({"style", "content", "features"})
"""A config without ``task:``, as all were once, is of style transfer if it has one of these keys."""


@dataclass(frozen=True)
class LoadedConfig:
    """A valid experiment and where each of its values came from."""

    experiment: AnyExperiment
    origins: Mapping[Key, str] = field(default_factory=dict)
    point: str = ""
    """Where in a grid the experiment is: ``batch size 4, lr 0.001``."""
    grid_cells: tuple[LoadedConfig, ...] = ()
    """The experiment at each point of its grid; empty where it has none."""
    folder: Path | None = None
    """The folder of the config file, if there is one: what a config names may stand beside it."""

    @property
    def cells(self) -> tuple[LoadedConfig, ...]:
        """The experiments to run: one a point of the grid, or this one."""
        assert bool(self.grid_cells) == bool(self.experiment.grid), "load_config makes the cells of a grid"
        return self.grid_cells or (self,)

    def error(self, path: Key, message: object) -> ConfigError:
        """Return the error `message`, prefixed with where the value at `path` was written."""
        return ConfigError(located(self.origins, path, str(message)))


def task_name(data: Mapping[str, Any]) -> str:
    """Return the name of the task that a config, or the recorded config of a run, is of."""
    return str(data.get("task") or ("classification" if _STYLE_KEYS.isdisjoint(data) else "style_transfer"))


def load_config(
    source: Path | Mapping[str, Any] | None,
    *,
    settings: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    default_name: str | None = "train",
    max_runs: int = MAX_RUNS,
) -> LoadedConfig:
    """Read `source`, lay `settings` (``train.lr=0.01``) and `flags` (dotted path -> value) over it, and validate.

    `source` is a YAML file, what one would hold as a mapping, or None where settings and flags say everything.

    Where nothing names the experiment, a file does by its own name, and otherwise `default_name`, or where that is None
    the question itself (`normbench.config.naming`).

    A flag is called like the last part of its path: errors say ``--batch-size`` for ``train.batch_size``.

    Raises:
        ConfigError: the file cannot be read or parsed, or a value is wrong; all problems are listed, one per line. Or
            it asks for more than `max_runs` runs.
    """
    data, origins = _settings(source, settings, flags or {}, default_name)
    folder = source.parent if isinstance(source, Path) else None
    base = replace(_validated(data, origins), folder=folder)
    _check_num_runs(base, max_runs)
    cells: list[LoadedConfig] = []
    problems: dict[str, None] = {}  # cells share most of their values, and so their problems
    for point, cell, cell_origins in cell_data(base.experiment, data, origins):
        try:
            cells.append(replace(_validated(cell, cell_origins), point=point, folder=folder))
        except ConfigError as error:
            problems |= dict.fromkeys(str(error).splitlines())
    if problems:
        raise ConfigError("\n".join(problems))
    return replace(base, grid_cells=tuple(cells))


def _check_num_runs(loaded: LoadedConfig, max_runs: int) -> None:
    """Count the runs before any is made."""
    experiment = loaded.experiment
    num_norms, num_seeds = len(experiment.norms), len(experiment.seeds)
    num_points = prod(map(len, experiment.grid.values()))
    num_runs = num_norms * num_seeds * num_points
    if num_runs > max_runs:
        largest = max(("norms", num_norms), ("seeds", num_seeds), ("grid", num_points), key=lambda pair: pair[1])[0]
        factors = f"norms ({num_norms:,}) x seeds ({num_seeds:,}) x points of the grid ({num_points:,})"
        raise loaded.error(
            (largest,), f"{factors} = {num_runs:,} runs; at most {max_runs:,} unless --max-runs says more"
        )


def _validated(data: Mapping[str, Any], origins: Mapping[Key, str]) -> LoadedConfig:
    task = task_name(data)
    if task not in _SECTIONS:
        raise ConfigError(located(origins, ("task",), str(UnknownNameError("task", task, _SECTIONS))))
    sections = _SECTIONS[task]
    schema: type[AnyExperiment] = sections[""]  # type: ignore[assignment]
    try:
        experiment = schema.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, origins, sections))) from None
    problems = list(_norm_overrides(experiment, origins, sections))
    if problems:
        raise ConfigError("\n".join(problems))
    return LoadedConfig(experiment, origins)


def _settings(
    source: Path | Mapping[str, Any] | None, settings: Sequence[str], flags: Mapping[str, Any], default_name: str | None
) -> tuple[dict[str, Any], dict[Key, str]]:
    """Return what `source`, `settings` and `flags` say together, not validated, and where each value was written.

    Raises:
        ConfigError: the file cannot be read or parsed, or a setting is not ``path=value``.
    """
    data: dict[str, Any] = {}
    origins: dict[Key, str] = {}
    if isinstance(source, Mapping):
        _check_bounds(source, origins)
        data = copy.deepcopy(dict(source))
    elif source is not None:
        data, origins = read_yaml(source)
        default_name = re.sub(r"[^a-z0-9._+-]+", "_", source.stem.lower()).lstrip("._+-")[:64] or default_name
    for setting in settings:
        dotted, equals, text = setting.partition("=")
        if not equals or not dotted.strip():
            raise ConfigError(f"--set {setting}: write it as path=value, for example --set train.lr=0.01")
        assign(data, origins, dotted.strip(), parse_value(text, f"--set {setting}"), f"--set {setting}")
    for dotted, value in flags.items():
        assign(data, origins, dotted, value, "--" + dotted.rpartition(".")[2].replace("_", "-"))
    _check_bounds(data, origins)
    if "name" not in data:
        data["name"] = default_name or question_name(data)
    return data, origins


def _check_bounds(data: Mapping[str, Any], origins: Mapping[Key, str]) -> None:
    problem = first_problem(data)
    if problem is not None:
        raise ConfigError(located(origins, *problem))


def _norm_overrides(experiment: AnyExperiment, origins: Mapping[Key, str], sections: Sections) -> Iterable[str]:
    for position, norm in enumerate(experiment.norms):
        try:
            experiment.train_for(norm)
        except ValidationError as error:
            yield from explain(error, origins, sections, prefix=("norms", position, "train"))
