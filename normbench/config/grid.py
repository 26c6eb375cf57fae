"""The points of a config's ``grid:``, each as a config of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from normbench.config.messages import Key
from normbench.config.overrides import assign
from normbench.config.schema import BaseExperimentConfig, spell_out_lr
from normbench.errors import ConfigError

_NOT_IN_GRID = {
    "norm": "norms are listed in `norms`, each variant with its options",
    "norms": "norms are listed in `norms`, each variant with its options",
    "seed": "seeds are listed in `seeds`",
    "seeds": "seeds are listed in `seeds`",
    "name": "one experiment has one name",
    "baseline": "one experiment has one baseline",
    "grid": "a grid has no grid",
    "tune": "it tries learning rates itself",
    "analysis": "one experiment has one analysis",
    "batch_one": "it is a probe of a comparison without a grid",
    "evaluate": "it changes no training",
    "probe": "it is no setting",
    "sources": "they are runs of their own",
    "held": "it is no setting",
}


def cell_data(
    experiment: BaseExperimentConfig, data: Mapping[str, Any], origins: Mapping[Key, str]
) -> Iterator[tuple[str, dict[str, Any], dict[Key, str]]]:
    """Yield each point of the grid in words, what the config says there, and the origins of its values.

    Nothing without a grid. Its last path varies fastest. Values are not checked yet.

    Raises:
        ConfigError: a path cannot be in a grid, or its values would not reach every norm.
    """
    grid = experiment.grid
    written = {".".join(map(str, key)): origin for key, origin in origins.items() if key[:1] == ("grid",)}
    base_origins = {key: origin for key, origin in origins.items() if key[:1] != ("grid",)}
    for path in grid:
        _check(experiment, path, _origin(written, path))
    if grid and getattr(experiment, "batch_one", None) is not None:
        where = origins.get(("batch_one",), "config")
        raise ConfigError(f"{where}: batch_one: {_NOT_IN_GRID['batch_one']}; put batch size 1 into the grid instead")
    choices = [
        [(path, value, _origin(written, path, position)) for position, value in enumerate(values)]
        for path, values in grid.items()
    ]
    for chosen in product(*choices) if choices else ():
        cell: dict[str, Any] = {key: copy.deepcopy(value) for key, value in data.items() if key != "grid"}
        cell_origins = dict(base_origins)
        for path, value, origin in chosen:
            assign(cell, cell_origins, path, copy.deepcopy(value), origin)
            parts = path.split(".")
            for length in range(1, len(parts)):  # sections that the file does not write
                cell_origins.setdefault(tuple(parts[:length]), origin)
        yield ", ".join(_in_words(path, value) for path, value, _ in chosen), cell, cell_origins


def _check(experiment: BaseExperimentConfig, path: str, origin: str) -> None:
    first, _, field = path.partition(".")
    if first in _NOT_IN_GRID:
        raise ConfigError(f"{origin}: grid: {path} cannot be in a grid: {_NOT_IN_GRID[first]}")
    if path.endswith(".lr") and f"{path.removesuffix('.lr')}.learning_rate" in experiment.grid:
        raise ConfigError(f"{origin}: grid: lr and learning_rate are the same setting; give one of them")
    if first == "train":
        (field,) = spell_out_lr({field: None}) if field else ("",)
        for position, norm in enumerate(experiment.norms):
            if field in spell_out_lr(norm.train) or (norm.train and not field):
                raise ConfigError(
                    f"{origin}: grid: {path} would not reach norms.{position} ({norm.name}), which sets it for itself"
                )


def _in_words(path: str, value: Any) -> str:
    """Return ``batch size 4`` or ``resnet9``."""
    if isinstance(value, Mapping):
        value = value.get("name", value)
    return str(value) if isinstance(value, str) else f"{path.rpartition('.')[2].replace('_', ' ')} {value}"


def _origin(written: Mapping[str, str], path: str, position: int | None = None) -> str:
    """Return where a path of the grid, or one of its values, was written: ``train.lr`` or ``train: {lr: ...}``."""
    found = (written.get(f"grid.{path}.{position}"), written.get(f"grid.{path}"), written.get("grid"))
    return next((origin for origin in found if origin is not None), "config")
