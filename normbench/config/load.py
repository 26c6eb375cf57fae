"""Config files, ``--set`` and flags -> `ExperimentConfig`.

Errors name file, line, path, value, what is allowed and the nearest valid name.
One precedence: flag > --set > file > default.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from normbench.config.grid import cell_data
from normbench.config.messages import Key, explain, located
from normbench.config.overrides import assign
from normbench.config.schema import ExperimentConfig, NormConfig, TrainConfig
from normbench.config.yaml_reader import parse_options, parse_value, read_yaml
from normbench.errors import ConfigError

__all__ = ["LoadedConfig", "load_config", "parse_options", "read_settings", "train_for"]


@dataclass(frozen=True)
class LoadedConfig:
    """A valid experiment and where each of its values came from."""

    experiment: ExperimentConfig
    origins: Mapping[Key, str] = field(default_factory=dict)
    point: str = ""
    """Where in a grid the experiment is: ``batch size 4, lr 0.001``."""
    grid_cells: tuple[LoadedConfig, ...] = ()
    """The experiment at each point of its grid; empty where it has none."""

    @property
    def cells(self) -> tuple[LoadedConfig, ...]:
        """The experiments to run: one a point of the grid, or this one."""
        assert bool(self.grid_cells) == bool(self.experiment.grid), "load_config makes the cells of a grid"
        return self.grid_cells or (self,)

    def error(self, path: Key, message: object) -> ConfigError:
        """Return the error `message`, prefixed with where the value at `path` was written."""
        return ConfigError(located(self.origins, path, str(message)))


def load_config(
    file: Path | None,
    *,
    settings: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    default_name: str = "train",
) -> LoadedConfig:
    """Read `file`, lay `settings` (``train.lr=0.01``) and `flags` (dotted path -> value) over it, and validate.

    A flag is called like the last part of its path: errors say ``--batch-size`` for ``train.batch_size``.

    Raises:
        ConfigError: the file cannot be read or parsed, or a value is wrong; all problems are listed, one a line.
    """
    data, origins = read_settings(file, settings, flags or {}, default_name)
    base = _validated(data, origins)
    cells: list[LoadedConfig] = []
    problems: dict[str, None] = {}  # cells share most of their values, and so their problems
    for point, cell, cell_origins in cell_data(base.experiment, data, origins):
        try:
            cells.append(replace(_validated(cell, cell_origins), point=point))
        except ConfigError as error:
            problems |= dict.fromkeys(str(error).splitlines())
    if problems:
        raise ConfigError("\n".join(problems))
    return replace(base, grid_cells=tuple(cells))


def _validated(data: Mapping[str, Any], origins: Mapping[Key, str]) -> LoadedConfig:
    try:
        experiment = ExperimentConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, origins))) from None
    problems = list(_norm_overrides(experiment, origins))
    if problems:
        raise ConfigError("\n".join(problems))
    return LoadedConfig(experiment, origins)


def read_settings(
    file: Path | None, settings: Sequence[str], flags: Mapping[str, Any], default_name: str
) -> tuple[dict[str, Any], dict[Key, str]]:
    """Return what `file`, `settings` and `flags` say together, not validated, and where each value was written.

    Raises:
        ConfigError: the file cannot be read or parsed, or a setting is not ``path=value``.
    """
    data: dict[str, Any] = {}
    origins: dict[Key, str] = {}
    if file is not None:
        data, origins = read_yaml(file)
        default_name = re.sub(r"[^a-z0-9._+-]+", "_", file.stem.lower()).lstrip("._+-")[:64] or default_name
    for setting in settings:
        dotted, equals, text = setting.partition("=")
        if not equals or not dotted.strip():
            raise ConfigError(f"--set {setting}: write it as path=value, for example --set train.lr=0.01")
        assign(data, origins, dotted.strip(), parse_value(text, f"--set {setting}"), f"--set {setting}")
    for dotted, value in flags.items():
        assign(data, origins, dotted, value, "--" + dotted.rpartition(".")[2].replace("_", "-"))
    data.setdefault("name", default_name)
    return data, origins


def train_for(experiment: ExperimentConfig, norm: NormConfig) -> TrainConfig:
    """Return the training settings of one norm: the experiment's, overridden by its own; the learning rate scaled."""
    own = TrainConfig.model_validate(norm.train).model_dump(exclude_unset=True)
    train = TrainConfig.model_validate({**experiment.train.model_dump(), **own})
    rate = experiment.lr_scaling.learning_rate(train.learning_rate, train.batch_size)
    return train.model_copy(update={"learning_rate": rate})


def _norm_overrides(experiment: ExperimentConfig, origins: Mapping[Key, str]) -> Iterable[str]:
    for position, norm in enumerate(experiment.norms):
        try:
            train_for(experiment, norm)
        except ValidationError as error:
            yield from explain(error, origins, prefix=("norms", position, "train"))
