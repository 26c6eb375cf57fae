"""Norms of a user's own: from a class or function to an entry like those of the catalog."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from normbench.errors import ConfigError, UnknownNameError
from normbench.norms.catalog import NORMS, SEQUENCE_NORMS
from normbench.norms.entry import UNKNOWN, Norm
from normbench.norms.factory import AnyNormFactory, NormFactory, NormFamily, SequenceNormFactory, check_options
from normbench.own_code import Source, Target, load_attribute, make_caller, missing_option, read_signature
from normbench.registry import OptionValue

if TYPE_CHECKING:
    from torch import nn

ENTRY_POINTS = "normbench.norms"
"""The group of entry points in which an installed package offers norms by name."""
_FIRST = ("num_channels", "num_features", "d_model", "channels")
"""The names that say which parameter is the number of channels, where it is not the first."""


def own_norm(target: Target, source: Source) -> Norm:
    """Return the entry of a class or function of a user's own, which takes a number of channels and returns a layer.

    Its other parameters are its options. It is also given ``size``, the (H, W) of its input, where it has such a
    parameter without a default. One with a true attribute `replaces_activation` contains its activation, and takes
    ``activation: bool`` to leave it out.

    Raises:
        ConfigError: the code cannot be executed, or its signature cannot be served.
    """
    function = load_attribute(target, source)
    signature = read_signature(function, source, first=_FIRST)
    needs_size = "size" in signature.required
    contains_activation = bool(getattr(function, "replaces_activation", False))
    given = [*(["size"] if needs_size else []), *(["activation"] if contains_activation else [])]
    if given:
        signature = read_signature(function, source, first=_FIRST, may_give=given)
    call = make_caller(function, target.attribute, source, signature)

    def build(num_channels: int, **options: OptionValue) -> nn.Module:
        layer: nn.Module = call(num_channels, **options)
        return layer

    return Norm(
        build=build, label=target.attribute, full_name=target.attribute,
        kind="norm_act" if contains_activation else "norm",
        axes=UNKNOWN, learnable_per_channel=UNKNOWN, running_state=UNKNOWN, needs_size=needs_size,
        year=None, paper="", arxiv=None, options=signature.options, required=signature.required,
    )  # fmt: skip


def own_factory(
    name: str, entry: Norm, family: NormFamily, options: Mapping[str, OptionValue], *, weight: str = ""
) -> AnyNormFactory:
    """Return the factory of the norm `entry`, called `name`, in a family; `weight` is what its name has after a plus.

    Raises:
        ConfigError: there is no such weight method, or the options do not fit.
    """
    if weight and weight not in family.weights:
        raise UnknownNameError("weight method", weight, family.weights or (f"({family.kind}s have none)",))
    check_options(name, entry, options)
    for option in entry.required:
        if option not in options:
            raise missing_option(entry.label, option)
    if family.factory is SequenceNormFactory:
        return SequenceNormFactory(name, entry, dict(options))
    return NormFactory(name, entry, family.weights[weight] if weight else None, dict(options))


def offered_norms() -> dict[str, EntryPoint]:
    """Return the norms that installed packages offer, by name; none of their code is imported.

    Raises:
        ConfigError: two packages offer one name, or a package one that NormBench has.
    """
    offered: dict[str, EntryPoint] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name in NORMS or entry.name in SEQUENCE_NORMS:
            raise ConfigError(f"{_package(entry)} offers a norm {entry.name!r}, which is a norm of NormBench's own")
        other = offered.get(entry.name)
        if other is not None and other.value != entry.value:
            raise ConfigError(f"{_package(other)} and {_package(entry)} both offer a norm {entry.name!r}")
        offered[entry.name] = entry
    return offered


def _package(entry: EntryPoint) -> str:
    return f"the installed package {entry.dist.name!r}" if entry.dist else "an installed package"
