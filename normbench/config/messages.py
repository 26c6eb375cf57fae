"""Puts what pydantic found wrong into the words of the user's file: where, which value, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from normbench.config.schema import BatchOneConfig
from normbench.config.tuning import TuneConfig
from normbench.errors import suggestion

Key = tuple[str | int, ...]

Sections = Mapping[str, type[BaseModel]]
"""The sections of a kind of config by name, the whole of it by the empty name."""

_MAX_PROBLEMS = 50
"""Problems of one kind of config that are looked into; a message has room for fewer."""


def dotted_path(path: Key) -> str:
    """Return ``train.lr`` for ``("train", "lr")``."""
    return ".".join(map(str, path))


def located(origins: Mapping[Key, str], path: Key, message: str) -> str:
    """Prefix `message` with the origin of the value at `path`, or of its nearest written ancestor."""
    found = [
        (length, spelling)
        for spelling in _spellings(path)
        for length in range(len(spelling) + 1)
        if spelling[:length] in origins
    ]
    length, written = max(found, key=lambda pair: pair[0], default=(-1, path))
    if length == -1:
        return f"{dotted_path(path) or 'config'}: {message}"
    if written[length:] == ("name",):  # `norm: gn` stands for `norm: {name: gn}`
        written = written[:length]
    origin = origins[written[:length]]
    says_path = origin.startswith("--") and length == len(written)
    return f"{origin}: {message}" if says_path else f"{origin}: {dotted_path(written) or 'config'}: {message}"


def _spellings(path: Key) -> Iterable[Key]:
    """Yield the ways in which a file may write `path`."""
    yield path
    if path[-1:] == ("learning_rate",):
        yield (*path[:-1], "lr")
    if path[:2] in (("norms", 0), ("seeds", 0)):
        yield ({"norms": "norm", "seeds": "seed"}[str(path[0])], *path[2:])


def explain(error: ValidationError, origins: Mapping[Key, str], sections: Sections, prefix: Key = ()) -> Iterable[str]:
    """Yield one line per problem; `prefix` is the path of what was validated, in a config made of `sections`."""
    seen: set[Key] = set()
    problems = error.errors()
    for problem in problems[:_MAX_PROBLEMS]:
        if problem["type"] == "too_short" and any(len(other["loc"]) > len(problem["loc"]) for other in problems):
            continue  # the list is short only because its entries are wrong, which is said already
        path: Key = (*prefix, *_without_union_member(problem["loc"]))
        if path in seen:
            continue  # one value, several union members
        seen.add(path)
        yield located(origins, path, _message(problem, path, sections))
    if len(problems) > _MAX_PROBLEMS:
        yield f"{len(problems) - _MAX_PROBLEMS:,} more problems"


def _without_union_member(location: Key) -> Key:
    """Return `location` without what pydantic appends to it: ``int`` for an option's value, ``[key]`` for a key."""
    is_value_of_option = location[-3:-2] == ("options",)
    return location[:-1] if is_value_of_option or location[-1:] == ("[key]",) else location


def _message(problem: Any, path: Key, sections: Sections) -> str:
    kind, value, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key{suggestion(path[-1], _allowed_keys(path[:-1], sections))}{_elsewhere(path, sections)}"
    if kind == "missing":
        example = {"norms": "`norms: [bn, gn]`", "name": "`name: gn`"}.get(str(path[-1]))
        missing = "name is required" if path[-1] == "name" else "is required"  # the path to a name ends before it
        return f"{missing}, for example {example}" if example else missing
    if kind == "literal_error":
        allowed = re.findall(r"'([^']+)'", context["expected"])
        return f"{value!r} is not allowed{suggestion(value, allowed)}"
    if kind in ("value_error", "assertion_error"):
        return str(context.get("error", problem["msg"]))
    if kind == "string_pattern_mismatch":
        return f"{value!r} is not allowed: lower-case letters, digits and . _ + -, at most 64, first a letter or digit"
    if kind in ("model_type", "string_type") and path[:1] in (("norms",), ("model",), ("dataset",)):
        return f"{value!r} is not a name; write a name such as `gn`, or `{{name: gn, options: {{groups: 8}}}}`"
    if kind in ("model_type", "mapping_type", "dict_type"):
        return f"{value!r} is not allowed: a section of settings belongs here"
    if path[:1] == ("seeds",):
        return f"{value!r} is not allowed: a number of seeds >= 1, or a list of seeds >= 0 such as [0, 1, 2]"
    if kind in ("tuple_type", "too_short") and path[:1] == ("grid",):
        return f"{value!r} is not allowed: a list of one or more values belongs here, such as [0.001, 0.01]"
    if kind in ("tuple_type", "too_short"):
        return f"{value!r} is not allowed: a list belongs here, such as [bn, gn]"
    if "options" in path:
        return f"{value!r} is not allowed: an option is a number, a text, true, false or null"
    if kind in ("float_parsing", "int_parsing"):
        return f"{value!r} is not a number"
    must = (
        problem["msg"]
        .replace("Input should be", "must be")
        .replace("a valid ", "a ")
        .replace("a integer", "an integer")
    )
    return f"{must}, not {value!r}"


def _section(path: Key, sections: Sections) -> type[BaseModel] | None:
    if len(path) >= 3 and path[0] == "norms" and path[-1] == "train":
        return sections["train"]
    names = [str(part) for part in path if isinstance(part, str)]
    return sections.get(".".join(names))


def _allowed_keys(path: Key, sections: Sections) -> tuple[str, ...]:
    section = _section(path, sections)
    return tuple(section.model_fields) if section else ()


def _elsewhere(path: Key, sections: Sections) -> str:
    """Say where the key belongs if another section has it."""
    key = str(path[-1])
    key = "learning_rate" if key == "lr" else key
    here = _section(path[:-1], sections)
    places = [
        f"{name}.{key}" if name else key
        for name, section in sections.items()
        if section not in (here, BatchOneConfig, TuneConfig)
        and key in section.model_fields
        and key not in ("name", "options", "label")
    ]
    return f" ({key} belongs at {' or '.join(places)})" if places else ""
