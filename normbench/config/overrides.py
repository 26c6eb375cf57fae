"""Laying one value of the command line over what a config file says."""

from __future__ import annotations

from typing import Any

from normbench.config.bounds import MAX_DEPTH, parse_count
from normbench.config.messages import Key, dotted_path
from normbench.config.schema import flat_grid
from normbench.errors import ConfigError

_OTHER_SPELLING = {
    "norm": "norms",
    "norms": "norm",
    "seed": "seeds",
    "seeds": "seed",
    "lr": "learning_rate",
    "learning_rate": "lr",
}


def assign(data: dict[str, Any], origins: dict[Key, str], dotted: str, value: Any, origin: str) -> None:
    """Set the value at a dotted path (``train.lr``, ``norms.0.label``), making sections on the way.

    Raises:
        ConfigError: the path leads through a value, or past the end of a list.
    """
    if dotted.startswith("grid."):
        _assign_grid(data, origins, dotted.removeprefix("grid."), value, origin)
        return
    path: Key = tuple(0 if part == "0" else parse_count(part) or part for part in dotted.split("."))
    if len(path) > MAX_DEPTH:
        raise ConfigError(f"{origin}: the path has more than {MAX_DEPTH} parts")
    target: Any = data
    for depth in range(1, len(path)):
        target = _inner(target, path[:depth], path, origin)
    last = path[-1]
    if isinstance(target, list):
        if not isinstance(last, int) or last >= len(target):
            raise ConfigError(f"{origin}: {dotted}: there is no such entry; the list has {len(target)}")
        target[last] = value
    else:
        section = target.get(str(last))
        if isinstance(value, str) and isinstance(section, dict) and section.get("name", value) == value:
            value = {**section, "name": value}  # the same norm, model or data set: its options stay
        other = _OTHER_SPELLING.get(str(last))
        if target.pop(other, None) is not None:
            _forget(origins, (*path[:-1], str(other)))
        target[str(last)] = value
    _forget(origins, path)
    origins[path] = origin


def _assign_grid(data: dict[str, Any], origins: dict[Key, str], field: str, value: Any, origin: str) -> None:
    """Set a field's values in the grid, whose keys are dotted paths, however the file nests them."""
    grid = flat_grid(data.get("grid") or {})
    if not isinstance(grid, dict):
        raise ConfigError(f"{origin}: grid is a value, not a section")
    data["grid"] = {**grid, field: value}
    for known in [known for known in origins if ".".join(map(str, known)).startswith(f"grid.{field}")]:
        del origins[known]
    origins["grid", field] = origin


def _inner(target: Any, here: Key, path: Key, origin: str) -> Any:
    """Return the section called `here`, the next one on the way to `path`."""
    part = here[-1]
    if isinstance(target, list):
        if not isinstance(part, int) or part >= len(target):
            raise ConfigError(f"{origin}: {dotted_path(here)}: there is no such entry; the list has {len(target)}")
        inner = target[part]
    else:
        part = str(part)
        inner = target.get(part)
        other = _OTHER_SPELLING.get(part)
        if inner is None and other is not None and other in target:
            rest = path[len(here) :]
            better = (other, 0, *rest) if isinstance(target[other], list) else (other, *rest[1:])
            raise ConfigError(f"{origin}: the config says {other}, not {part}: write {dotted_path(better)}")
    if isinstance(inner, str) and (here[0] in ("norm", "model", "dataset") or here[:-1] == ("norms",)):
        inner = {"name": inner}
    if inner is None:
        inner = {}
    if not isinstance(inner, dict | list):
        raise ConfigError(f"{origin}: {dotted_path(here)} is a value, not a section")
    target[part] = inner
    return inner


def _forget(origins: dict[Key, str], path: Key) -> None:
    """Remove the origins of a value that is replaced, and of all inside it."""
    for known in [known for known in origins if known[: len(path)] == path]:
        del origins[known]
