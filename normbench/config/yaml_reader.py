"""Strict YAML: one spelling of every scalar, no duplicate keys, and the line of every value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from normbench.config.messages import Key
from normbench.errors import ConfigError, suggestion


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


def read_yaml(file: Path) -> tuple[dict[str, Any], dict[Key, str]]:
    """Return what `file` says, and ``file:line`` of every value by its path.

    Raises:
        ConfigError: it cannot be read, is not YAML, is no mapping, or gives a key twice.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such config file{_near_files(file)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None
    try:
        loader = _Loader(text)
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
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{file}:{line}: not valid YAML: the character {chr(error.character)!r} is not allowed"
        ) from None
    except RecursionError:
        raise ConfigError(f"{file}: not a config: an alias (*name) refers to what contains it") from None


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


def parse_value(text: str, origin: str) -> Any:
    """Return the YAML value that `text`, given by `origin`, stands for.

    Raises:
        ConfigError: it is none.
    """
    try:
        return _Loader(text).get_single_data()
    except (yaml.YAMLError, RecursionError):
        raise ConfigError(f"{origin}: {text!r} is not a YAML value") from None


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
        parsed[name.strip()] = parse_value(text, f"{flag} {option}")
    return parsed
