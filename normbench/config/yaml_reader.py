"""Strict YAML: one spelling of every scalar, no duplicate keys, and the line of every value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from normbench.config.bounds import MAX_DEPTH, MAX_INTEGER, MAX_TEXT_BYTES, MAX_YAML_NODES
from normbench.config.messages import Key
from normbench.errors import ConfigError, first_line, suggestion

_TEXT_TAG = "tag:yaml.org,2002:str"


class _Loader(yaml.SafeLoader):
    """Safe YAML with the scalars of YAML 1.2: ``1e-3`` is a number, ``no`` and ``off`` are text, ``010`` is ten.

    It has no tags, its keys are text, and its size is bounded while it is read, before anything is made of it.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (the base class's own protocol)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._num_nodes = 0
        self._num_nodes_of: dict[str, int] = {}  # by anchor

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node; refuse what is beyond the bounds."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        before = self._num_nodes
        if isinstance(event, yaml.AliasEvent):
            name = str(event.anchor)
            if name in self.anchors and name not in self._num_nodes_of:
                raise _not_allowed(f"the alias *{name} refers to what contains it", event)
            self._num_nodes += self._num_nodes_of.get(name, 0)
        elif event.tag is not None:
            raise _not_allowed(f"tags such as {event.tag} are not allowed", event)
        self._num_nodes += 1
        if self._num_nodes > MAX_YAML_NODES:
            raise _not_allowed(f"more than {MAX_YAML_NODES:,} values, those of aliases counted where they stand", event)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _not_allowed(f"nested more than {MAX_DEPTH} levels deep", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.MappingNode):
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode) or key.tag != _TEXT_TAG:
                    said = key.value if isinstance(key, yaml.ScalarNode) else "a list or section"
                    raise _not_allowed(f"{said}: a key must be text", key)
        if event.anchor is not None:
            self._num_nodes_of[event.anchor] = self._num_nodes - before
        return node


class _BadText(Exception):
    """A text is no YAML, or beyond what a config needs; the line counts from 1."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(line, problem)
        self.line, self.problem = line, problem


def _not_allowed(problem: str, at: Any) -> _BadText:
    """Return the error of an event or node."""
    return _BadText(at.start_mark.line + 1, problem)


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
    text = loader.construct_scalar(node)
    if len(text) > len(str(MAX_INTEGER)) + 1:
        raise _not_allowed(f"a number of {len(text):,} digits; an integer is at most {MAX_INTEGER}", node)
    return int(text, 10)


_Loader.add_constructor("tag:yaml.org,2002:int", _decimal)


def read_yaml(file: Path) -> tuple[dict[str, Any], dict[Key, str]]:
    """Return what `file` says, and ``file:line`` of every value by its path.

    Raises:
        ConfigError: it cannot be read, is not YAML, is no mapping, or gives a key twice.
    """
    text = _read_text(file)
    try:
        node, value = _parse(text)
    except _BadText as bad:
        raise ConfigError(f"{file}:{bad.line}: {bad.problem}") from None
    if node is None:
        raise ConfigError(f"{file}: is empty")
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{file}:{node.start_mark.line + 1}: must be a mapping such as `norms: [bn, gn]`")
    return value, dict(_walk(node, (), file))


def _read_text(file: Path) -> str:
    try:
        if file.exists() and not file.is_file():
            raise ConfigError(f"{file}: cannot be read: it is not a regular file")
        with file.open("rb") as stream:
            content = stream.read(MAX_TEXT_BYTES + 1)
        _check_size(len(content), str(file))
        return content.decode()
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such config file{_near_files(file)}") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: cannot be read: {error.reason} at byte {error.start}: it must be UTF-8") from None


def _check_size(num_bytes: int, origin: str) -> None:
    if num_bytes > MAX_TEXT_BYTES:
        raise ConfigError(f"{origin}: is too long for a config: more than {MAX_TEXT_BYTES // 2**10} KiB")


def _parse(text: str) -> tuple[yaml.Node | None, Any]:
    """Return the root of the only document in `text`, and the value that it stands for; raises `_BadText`."""
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return node, None if node is None else loader.construct_document(node)
    except _BadText:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, problem = (mark.line + 1 if mark else 1), error.problem or error.context or ""
    except yaml.reader.ReaderError as error:
        line, problem = (
            text.count("\n", 0, error.position) + 1,
            f"the character {chr(error.character)!r} is not allowed",
        )
    except Exception as error:  # PyYAML lets through what int(), chr() and the like raise
        line, problem = (loader.line + 1 if loader else 1), first_line(error)
    raise _BadText(line, f"not valid YAML: {problem}")


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
    _check_size(len(text), origin)
    try:
        return _parse(text)[1]
    except _BadText as bad:
        raise ConfigError(f"{origin}: {text!r} is not a YAML value: {bad.problem}") from None


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
