"""Registries whose code is imported on first use: names, entries, options, and ``"package.module:attribute"`` targets.

A registry is a literal, read-only mapping from names to entries, and an entry names its code as text. So listing,
completion and checks need no torch, and what is never built is never imported.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from normbench.errors import ConfigError, UnknownNameError, suggestion

Entry = TypeVar("Entry")
OptionValue = bool | int | float | str | None


def find(kind: str, name: str, registry: Mapping[str, Entry]) -> Entry:
    """Return the entry called `name`; raises `UnknownNameError`, with the nearest name, where there is none."""
    if name not in registry:
        raise UnknownNameError(kind, name, registry)
    return registry[name]


def check_option_names(owner: str, given: Iterable[str], allowed: Collection[str]) -> None:
    """Raise `UnknownNameError` unless all of `given` are options of `owner`, such as ``norm 'gn'``."""
    for option in given:
        if option not in allowed:
            raise UnknownNameError(f"option of {owner}:", option, allowed or ("(it has none)",))


def load(target: str) -> Any:
    """Import the module of ``"package.module:attribute"`` and return the attribute."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


_WORDS: Mapping[type, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    object: "a number, a text, true or false",
}


def recorded_options(specifications: Mapping[str, Option], given: Mapping[str, OptionValue]) -> dict[str, OptionValue]:
    """Return the options that a run's config holds: all, with their defaults, but those that need not be recorded."""
    options = {name: option.default for name, option in specifications.items()} | dict(given)
    return {
        name: value
        for name, value in options.items()
        if specifications[name].recorded_at_default or value != specifications[name].default
    }


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option of a norm or a model: its type, its default, what it does and which values it allows.

    Bounds are for numbers: `above` and `below` exclude their value, `minimum` and `maximum` include it. A default of
    None allows None; the type ``object`` allows whatever a config can say. `instead_of` names the option that this one
    replaces; both cannot be given.
    """

    type: type[bool] | type[int] | type[float] | type[str] | type[object]
    default: OptionValue
    help: str
    choices: tuple[str, ...] = ()
    above: float = -math.inf
    minimum: float = -math.inf
    maximum: float = math.inf
    below: float = math.inf
    instead_of: str | None = None
    recorded_at_default: bool = True
    """Whether a run's config, and so its id, holds the option where nobody set it.

    False for an option that was added when runs without it had been recorded: those keep their ids.
    """

    def check(self, name: str, value: object) -> None:
        """Raise `ConfigError`, naming the option `name` and what is allowed, unless `value` is allowed."""
        if value is None and self.default is None:
            return
        if self.choices:
            if value not in self.choices:
                raise ConfigError(f"{name}={value!r} is not a choice{suggestion(value, self.choices)}")
        elif not self._allows(value):
            raise ConfigError(f"{name}={value!r} is not allowed; it must be {self.allowed}")

    def _allows(self, value: object) -> bool:
        # bool is a subclass of int, and an int is a fine float: hence no plain isinstance.
        if self.type is object:
            return isinstance(value, OptionValue)
        if self.type in (bool, str):
            return isinstance(value, self.type)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        if self.type is int and not isinstance(value, int):
            return False
        return self.above < value < self.below and self.minimum <= value <= self.maximum

    @property
    def allowed(self) -> str:
        """The values that are allowed, in words: ``a number > 0``."""
        or_null = " or null" if self.default is None else ""
        if self.choices:
            return f"one of {', '.join(self.choices)}{or_null}"
        words = _WORDS[self.type]
        limits = (("> ", self.above), (">= ", self.minimum), ("<= ", self.maximum), ("< ", self.below))
        bounds = " and ".join(f"{sign}{limit:g}" for sign, limit in limits if math.isfinite(limit))
        return f"{words} {bounds}".strip() + or_null
