"""Config files, ``--set`` and flags -> `ExperimentConfig`, with errors that name file, line, path, value and what is allowed.

One precedence: flag > --set > file > default.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from normbench.config import DatasetConfig, ExperimentConfig, ModelConfig, NormConfig, TrainConfig
from normbench.errors import ConfigError, suggestion

Key = tuple[str | int, ...]

_SINGULAR = {"norm": "norms", "seed": "seeds"}
_SECTIONS: Mapping[str, type[BaseModel]] = {
    "": ExperimentConfig,
    "norms": NormConfig,
    "model": ModelConfig,
    "dataset": DatasetConfig,
    "train": TrainConfig,
}


@dataclass(frozen=True)
class LoadedConfig:
    """A valid experiment and where each of its values came from."""

    experiment: ExperimentConfig
    origins: Mapping[Key, str] = field(default_factory=dict)

    def error(self, path: Key, message: object) -> ConfigError:
        """Return the error `message`, prefixed with where the value at `path` was written."""
        return ConfigError(_located(self.origins, path, str(message)))


def load_config(
    file: Path | None,
    *,
    settings: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    default_name: str = "train",
) -> LoadedConfig:
    """Read `file`, lay `settings` (``train.lr=0.01``) and `flags` (dotted path -> value) over it, and validate.

    Raises:
        ConfigError: the file cannot be read or parsed, or a value is wrong; all problems are listed, one a line.
    """
    data: dict[str, Any] = {}
    origins: dict[Key, str] = {}
    if file is not None:
        data, origins = _read_yaml(file)
        default_name = file.stem.lower()
    for setting in settings:
        dotted, equals, text = setting.partition("=")
        if not equals or not dotted.strip():
            raise ConfigError(f"--set {setting}: write it as path=value, for example --set train.lr=0.01")
        _assign(data, origins, dotted.strip(), _parse_value(text, f"--set {setting}"), f"--set {setting}")
    for dotted, value in (flags or {}).items():
        _assign(data, origins, dotted, value, "command line")
    data.setdefault("name", default_name)
    try:
        experiment = ExperimentConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, origins))) from None
    problems = list(_norm_overrides(experiment, origins))
    if problems:
        raise ConfigError("\n".join(problems))
    return LoadedConfig(experiment, origins)


def train_for(experiment: ExperimentConfig, norm: NormConfig) -> TrainConfig:
    """Return the training settings of one norm: the experiment's, overridden by the norm's own."""
    own = TrainConfig.model_validate(norm.train).model_dump(exclude_unset=True)
    return TrainConfig.model_validate({**experiment.train.model_dump(), **own})


def _norm_overrides(experiment: ExperimentConfig, origins: Mapping[Key, str]) -> Iterable[str]:
    for position, norm in enumerate(experiment.norms):
        try:
            train_for(experiment, norm)
        except ValidationError as error:
            yield from _explain(error, origins, prefix=("norms", position, "train"))


# --- reading -----------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Safe YAML with the scalars of YAML 1.2: ``1e-3`` is a number, ``no`` and ``off`` are text, ``010`` is ten."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (the base class's own protocol)


_SCALARS = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
)
for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)


def _decimal(loader: yaml.SafeLoader, node: yaml.Node) -> int:
    assert isinstance(node, yaml.ScalarNode)
    return int(loader.construct_scalar(node), 10)


_Loader.add_constructor("tag:yaml.org,2002:int", _decimal)


def _read_yaml(file: Path) -> tuple[dict[str, Any], dict[Key, str]]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such config file{_near_files(file)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise ConfigError(f"{file}: is empty")
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{file}:{node.start_mark.line + 1}: must be a mapping such as `norms: [bn, gn]`")
        origins = dict(_walk(node, (), file))
        return loader.construct_document(node), origins
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{file}:{line}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not valid YAML: {error}") from None
    finally:
        loader.dispose()


def _walk(node: yaml.Node, path: Key, file: Path) -> Iterable[tuple[Key, str]]:
    """Yield the path and ``file:line`` of every value; refuse duplicate keys."""
    yield path, f"{file}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in lines:
                dotted = ".".join(map(str, (*path, key)))
                raise ConfigError(f"{file}:{line}: {dotted}: duplicate key (first on line {lines[key]})")
            lines[key] = line
            inner = (*path, key)
            yield from _walk(value_node, inner, file)
            yield inner, f"{file}:{line}"
    elif isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            yield from _walk(item, (*path, position), file)


def _near_files(file: Path) -> str:
    names = sorted(path.name for path in file.parent.glob("*.yaml")) if file.parent.is_dir() else []
    return f" in {file.parent}/{suggestion(file.name, names)}" if names else ""


def _parse_value(text: str, origin: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except yaml.YAMLError:
        raise ConfigError(f"{origin}: {text!r} is not a YAML value") from None
    finally:
        loader.dispose()


def parse_options(flag: str, options: Sequence[str]) -> dict[str, Any]:
    """Return ``["groups=8", ...]`` as a mapping.

    Raises:
        ConfigError: an entry is not ``name=value``.
    """
    parsed = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"{flag} {option}: write it as name=value, for example {flag} groups=8")
        parsed[name.strip()] = _parse_value(text, f"{flag} {option}")
    return parsed


def _assign(data: dict[str, Any], origins: dict[Key, str], dotted: str, value: Any, origin: str) -> None:
    """Set the value at a dotted path (``train.lr``, ``norms.0.label``), making sections on the way."""
    path: Key = tuple(int(part) if part.isdigit() else part for part in dotted.split("."))
    head = path[0]
    for singular, plural in _SINGULAR.items():  # a flag for one form replaces the other form of the file
        if head in (singular, plural):
            data.pop(plural if head == singular else singular, None)
    if (
        path[0] == "train"
        and len(path) == 2
        and path[1] in ("lr", "learning_rate")
        and isinstance(data.get("train"), dict)
    ):
        data["train"].pop("lr", None)
        data["train"].pop("learning_rate", None)
    target: Any = data
    for depth, part in enumerate(path[:-1]):
        if isinstance(target, list) and isinstance(part, int) and part < len(target):
            inner = target[part]
        elif isinstance(target, dict):
            inner = target.get(str(part))
        else:
            raise ConfigError(f"{origin}: {'.'.join(map(str, path[: depth + 1]))}: there is no such entry")
        if isinstance(inner, str) and path[depth] in ("model", "dataset"):
            inner = {"name": inner}
        if inner is None:
            inner = {}
        if not isinstance(inner, dict | list):
            raise ConfigError(f"{origin}: {'.'.join(map(str, path[: depth + 1]))} is a value, not a section")
        target[part if isinstance(target, list) else str(part)] = inner
        target = inner
    last = path[-1]
    if isinstance(target, list):
        if not isinstance(last, int) or last >= len(target):
            raise ConfigError(f"{origin}: {dotted}: there is no such entry; the list has {len(target)}")
        target[last] = value
    else:
        target[str(last)] = value
    origins[path] = origin


# --- explaining --------------------------------------------------------------------------------------------------


def _located(origins: Mapping[Key, str], path: Key, message: str) -> str:
    """Prefix `message` with the origin of the value at `path`, or of its nearest written ancestor."""
    variants = [path]
    if path and path[-1] == "learning_rate":
        variants.insert(0, (*path[:-1], "lr"))
    if len(path) >= 2 and path[0] in ("norms", "seeds") and path[1] == 0:
        variants.append(({"norms": "norm", "seeds": "seed"}[str(path[0])], *path[2:]))
    for variant in variants:
        if variant in origins:
            return f"{origins[variant]}: {'.'.join(map(str, variant))}: {message}"
    for length in range(len(path) - 1, -1, -1):
        if path[:length] in origins:
            return f"{origins[path[:length]]}: {'.'.join(map(str, path)) or 'config'}: {message}"
    return f"{'.'.join(map(str, path)) or 'config'}: {message}"


def _explain(error: ValidationError, origins: Mapping[Key, str], prefix: Key = ()) -> Iterable[str]:
    seen: set[Key] = set()
    problems = error.errors()
    for problem in problems:
        if problem["type"] == "too_short" and any(len(other["loc"]) > len(problem["loc"]) for other in problems):
            continue  # the list is short only because its entries are wrong, which is said already
        location = tuple(part for part in problem["loc"] if not (isinstance(part, str) and _is_union_member(part)))
        path: Key = (*prefix, *location)
        if path in seen:
            continue  # one value, several union members
        seen.add(path)
        yield _located(origins, path, _message(problem, path))


def _is_union_member(part: str) -> bool:
    return part in ("bool", "int", "float", "str", "none") or part.endswith("]")


def _message(problem: Any, path: Key) -> str:
    kind, value, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key{suggestion(path[-1], _allowed_keys(path[:-1]))}{_elsewhere(path)}"
    if kind == "missing":
        return "is required, for example `norms: [bn, gn]`" if path[-1:] == ("norms",) else "is required"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']+)'", context["expected"])
        return f"{value!r} is not allowed{suggestion(value, allowed)}"
    if kind in ("value_error", "assertion_error"):
        return str(context.get("error", problem["msg"]))
    if kind == "string_pattern_mismatch":
        return f"{value!r} is not allowed: lower-case letters, digits and . _ + -, at most 64, first a letter or digit"
    if kind in ("model_type", "string_type") and path[:1] in (("norms",), ("model",), ("dataset",)):
        return f"{value!r} is not a name; write a name such as `gn`, or `{{name: gn, options: {{groups: 8}}}}`"
    if path[:1] == ("seeds",):
        return f"{value!r} is not allowed: a number of seeds >= 1, or a list of seeds >= 0 such as [0, 1, 2]"
    if "options" in path:
        return f"{value!r} is not allowed: an option is a number, a text, true, false or null"
    return f"{problem['msg'].replace('Input should be', 'must be').replace('a valid', 'a')}, not {value!r}"


def _section(path: Key) -> type[BaseModel] | None:
    if len(path) >= 3 and path[0] == "norms" and path[-1] == "train":
        return TrainConfig
    names = [str(part) for part in path if isinstance(part, str)]
    return _SECTIONS.get(".".join(names)) if len(names) <= 1 else None


def _allowed_keys(path: Key) -> tuple[str, ...]:
    section = _section(path)
    return tuple(section.model_fields) if section else ()


def _elsewhere(path: Key) -> str:
    """Say where the key belongs if another section has it."""
    key = str(path[-1])
    key = "learning_rate" if key == "lr" else key
    here = _section(path[:-1])
    places = [
        f"{name}.{key}" if name else key
        for name, section in _SECTIONS.items()
        if section is not here and key in section.model_fields and key not in ("name", "options", "label")
    ]
    return f" ({key} belongs at {' or '.join(places)})" if places else ""
