"""The types of the norm registry; importable without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from normbench.errors import ConfigError, suggestion

Kind = Literal["norm", "norm_act", "none"]
OptionValue = bool | int | float | str | None


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a norm: its type, default, and what it does and allows.

    Bounds are for numbers: `above` and `below` exclude their value, `minimum` and `maximum` include it. A default of
    None allows None. `instead_of` names the option that this one replaces; both cannot be given.
    """

    type: type[bool] | type[int] | type[float] | type[str]
    default: OptionValue
    help: str
    choices: tuple[str, ...] = ()
    above: float = -math.inf
    minimum: float = -math.inf
    maximum: float = math.inf
    below: float = math.inf
    instead_of: str | None = None

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
        if self.type in (bool, str):
            return isinstance(value, self.type)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        if self.type is int and not isinstance(value, int):
            return False
        return self.above < value < self.below and self.minimum <= value <= self.maximum

    @property
    def allowed(self) -> str:
        """What values are allowed, in words: ``a number > 0``."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        words = {bool: "true or false", int: "an integer", float: "a number", str: "text"}[self.type]
        limits = (("> ", self.above), (">= ", self.minimum), ("<= ", self.maximum), ("< ", self.below))
        bounds = " and ".join(f"{sign}{limit:g}" for sign, limit in limits if math.isfinite(limit))
        or_null = " or null" if self.default is None else ""
        return f"{words} {bounds}".strip() + or_null


@dataclass(frozen=True, kw_only=True)
class Norm:
    """One normalization method.

    `build` is called as ``build(num_channels, **options)`` and returns a module that maps ``(N, C, H, W)`` to the same
    shape, dtype and memory format. Kind ``norm_act`` contains its activation: the model drops its own, and the builder
    takes ``activation: bool`` to leave it out where a block adds before activating. With `needs_size` the builder also
    takes ``size: tuple[int, int]``, the (H, W) of its input.
    """

    build: str
    """``"family_file:function"``, relative to this package."""
    label: str
    """Short, for legends."""
    full_name: str
    kind: Kind = "norm"
    axes: str
    """What each statistic runs over, ``"H, W; N, H, W"`` for two; ``C/G`` is a part of C. ``"none"``: no statistic."""
    learnable_per_channel: str
    running_state: str = "none"
    train_eval_differ: bool = False
    batch_dependent: bool = False
    """Whether, in training, a sample's output depends on the other samples."""
    needs_size: bool = False
    year: int | None
    paper: str
    arxiv: str | None
    options: Mapping[str, Option] = field(default_factory=dict)

    @property
    def replaces_activation(self) -> bool:
        """Whether the model must leave out the activation that would follow."""
        return self.kind == "norm_act"

    @property
    def axis_sets(self) -> tuple[tuple[str, ...], ...]:
        """The axes of each statistic: ``(("H", "W"), ("N", "H", "W"))``; empty without statistics."""
        return () if self.axes == "none" else tuple(tuple(part.split(", ")) for part in self.axes.split("; "))


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A reparametrisation of convolution weights, written ``norm+key`` (``gn+ws``) and composing with any norm.

    `build` is called as ``build(in_channels, out_channels, kernel_size, *, stride, padding, bias)`` and returns a
    `torch.nn.Conv2d`.
    """

    build: str
    label: str
    full_name: str
    learnable_per_channel: str
    year: int
    paper: str
    arxiv: str
