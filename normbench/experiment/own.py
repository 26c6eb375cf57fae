"""Finds the norms, networks and images of a user's own that an experiment names, before its runs are planned.

Files are read here and executed in a training process only, which answers with what can be said of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from normbench.config.load import LoadedConfig
from normbench.config.messages import Key
from normbench.config.schema import Code, DatasetConfig, ModelConfig, Named, NormConfig
from normbench.data import DATASETS
from normbench.data.own import find_images, is_own_images
from normbench.errors import ConfigError, UnknownNameError, WorkerError
from normbench.models import MODELS, Model
from normbench.norms import NORM_FAMILIES, Norm, NormFamily
from normbench.norms.own import offered_norms
from normbench.own_code import Source, Target, is_own, parse_target, read_source, split_weight
from normbench.worker.targets import Described, OwnCode

Describe = Callable[[Sequence[OwnCode]], list[Described]]
"""Executes code of a user's own and says what it is: `worker.targets.describe_own`, in a process of the caller's."""


@dataclass(frozen=True)
class OwnEntries:
    """What is known of a user's own norms and networks, by the config that names them."""

    norms: Mapping[tuple[str, Code], Norm] = field(default_factory=dict)
    models: Mapping[tuple[str, Code], Model] = field(default_factory=dict)

    def model(self, config: ModelConfig) -> Model | None:
        """Return the entry of a network; None where there is no such network."""
        return MODELS.get(config.name) if config.code is None else self.models[config.name, config.code]

    def norm(self, config: NormConfig, base: str, family: NormFamily) -> Norm | None:
        """Return the entry of the norm called `base` without its weight method; None where there is no such norm."""
        return family.norms.get(base) if config.code is None else self.norms[base, config.code]


NOTHING_OWN = OwnEntries()


def find_own(loaded: LoadedConfig, describe: Describe, data_dir: Path | None = None) -> tuple[LoadedConfig, OwnEntries]:
    """Return the experiment with the text of its own code and the place of its own images, and what the code is.

    Raises:
        ConfigError: a file cannot be read or executed, or has no such norm or network; an installed package has none.
    """
    norms: dict[tuple[str, Code], Norm] = {}
    models: dict[tuple[str, Code], Model] = {}
    cells = tuple(_find_in_cell(cell, describe, data_dir, norms, models) for cell in loaded.grid_cells)
    base = _find_in_cell(loaded, describe, data_dir, norms, models)
    return replace(base, grid_cells=cells), OwnEntries(norms, models)


def _find_in_cell(
    loaded: LoadedConfig,
    describe: Describe,
    data_dir: Path | None,
    norms: dict[tuple[str, Code], Norm],
    models: dict[tuple[str, Code], Model],
) -> LoadedConfig:
    experiment: Any = loaded.experiment
    changes: dict[str, Any] = {}
    wanted = [(("norms", position), norm) for position, norm in enumerate(experiment.norms) if _is_own_norm(norm.name)]
    if wanted:
        found = list(experiment.norms)
        for path, norm in wanted:
            found[path[1]], entry = _find_code(loaded, path, norm, "norm", describe)
            norms[split_weight(found[path[1]].name)[0], found[path[1]].code] = entry
        changes["norms"] = tuple(found)
    model = getattr(experiment, "model", None)
    if model is not None and (model.code is not None or (model.name not in MODELS and is_own(model.name))):
        changes["model"], entry = _find_code(loaded, ("model",), model, "model", describe)
        models[changes["model"].name, changes["model"].code] = entry
    dataset = getattr(experiment, "dataset", None)
    if dataset is not None and is_own_images(dataset):
        try:
            changes["dataset"] = find_images(dataset, _folders(loaded, ("dataset", "name")), data_dir)
        except ConfigError as error:
            raise loaded.error(("dataset", "name"), error) from None
    return replace(loaded, experiment=experiment.model_copy(update=changes)) if changes else loaded


def _is_own_norm(name: str) -> bool:
    if is_own(name):
        return True
    base = name.partition("+")[0]
    return not any(base in family.norms for family in NORM_FAMILIES.values()) and base in offered_norms()


def _find_code(
    loaded: LoadedConfig, path: Key, config: Any, kind: Literal["norm", "model"], describe: Describe
) -> tuple[Any, Any]:
    """Return the config with its code, called by the name of its file alone, and the entry that the code makes."""
    try:
        base, weight = split_weight(config.name)
        target = parse_target(base if is_own(base) else offered_norms()[base].value)
        source = _source(loaded, path, config, target)
        try:
            (described,) = describe([OwnCode(kind, target, source)])
        except WorkerError as error:
            where = source.path if source else target
            raise ConfigError(f"{where}: the process that executed it ended: {error}") from None
        code = Code.of(described.source)
        if config.code is not None and config.code.sha256 != code.sha256:
            raise ConfigError(f"{described.source.path}: has changed since it was recorded; leave `code` out to use it")
        if target.is_file:
            base = str(Target(code.file, target.attribute))
        name = f"{base}+{weight}" if weight else base
        return config.model_copy(update={"name": name, "code": code}), described.entry
    except ConfigError as error:
        raise loaded.error((*path, "name"), error) from None


def _source(loaded: LoadedConfig, path: Key, config: Named, target: Target) -> Source | None:
    """Return the text of the file that `config` names; None for an installed module, which says it itself.

    A file is looked for as it is written, and then beside the config that names it. A config that was recorded knows
    the hash of its file, which then decides.
    """
    if config.code is not None and config.code.source is not None:
        return config.code.source
    if not target.is_file:
        return None
    places = [folder / target.module for folder in _folders(loaded, path)]
    recorded = config.code
    if recorded is not None and loaded.folder is not None:
        places += [loaded.folder / recorded.file, *sorted(loaded.folder.glob(f"*/{recorded.file}"))]
    there = [read_source(place) for place in dict.fromkeys(places) if place.exists()]
    if not there:
        return read_source(places[0])  # which says what is wrong
    if recorded is not None:
        same = [source for source in there if source.sha256 == recorded.sha256]
        if not same:
            raise ConfigError(f"{there[0].path}: is not the file that was recorded: its content has changed")
        return same[0]
    if len({source.sha256 for source in there}) > 1:
        both = " and ".join(source.path for source in there)
        raise ConfigError(f"{target.module} is here and beside the config, and they differ: {both}; write the path")
    return there[0]


def _folders(loaded: LoadedConfig, path: Key) -> Iterator[Path]:
    """Yield where a file may be that is named at `path` of the config: here, and beside a config that names it."""
    yield Path()
    is_flag = any(loaded.origins.get(path[:length], "").startswith("--") for length in range(1, len(path) + 1))
    if loaded.folder is not None and not is_flag:
        yield loaded.folder


def missing_norm(config: NormConfig, family: NormFamily) -> UnknownNameError:
    """Return the error of a norm that is neither in its family nor of the user's own."""
    return UnknownNameError(family.kind, config.name, (*family.norms, *offered_norms()))


def missing_dataset(config: DatasetConfig) -> UnknownNameError:
    """Return the error of a data set that does not exist."""
    return UnknownNameError("dataset", config.name, (*DATASETS, "./images.npz"))
