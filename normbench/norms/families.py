"""Families of norms, by what they normalize: each model takes the norms of one family and says which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, cast

from normbench.errors import ConfigError, UnknownNameError
from normbench.norms.catalog import NORMS, WEIGHTS
from normbench.norms.entry import Norm, OptionValue, Weight
from normbench.norms.factory import NormFactory, check_options, load, make_norm
from normbench.norms.sequence_catalog import SEQUENCE_NORMS

if TYPE_CHECKING:
    from torch import nn

FamilyName = Literal["image", "sequence"]


@dataclass(frozen=True)
class SequenceNormFactory:
    """Builds one norm for any number of features: ``factory(d_model)``, a module with ``(N, T, D)`` in and out."""

    name: str
    norm: Norm
    options: Mapping[str, OptionValue] = field(default_factory=dict)

    def __call__(self, d_model: int) -> nn.Module:
        """Build the layer."""
        if d_model < 1:
            raise ConfigError(f"{self.name}: d_model must be at least 1, not {d_model}")
        return cast("nn.Module", load(self.norm.build)(d_model, **self.options))


AnyNormFactory = NormFactory | SequenceNormFactory


def make_sequence_norm(name: str, **options: OptionValue) -> SequenceNormFactory:
    """Return the factory of the sequence norm called `name`, a key of `SEQUENCE_NORMS`.

    Raises:
        UnknownNameError: `name` is not a sequence norm, or an option is not one of its options.
        ConfigError: an option's value is not allowed.
    """
    if name not in SEQUENCE_NORMS:
        raise UnknownNameError("sequence norm", name, SEQUENCE_NORMS)
    check_options(name, SEQUENCE_NORMS[name], options)
    return SequenceNormFactory(name, SEQUENCE_NORMS[name], dict(options))


@dataclass(frozen=True, kw_only=True)
class NormFamily:
    """One registry of norms, and how a factory is made from it."""

    kind: str
    """What a norm of it is called in messages."""
    norms: Mapping[str, Norm]
    weights: Mapping[str, Weight]
    """What a name may end in after a plus sign."""
    make: Callable[..., AnyNormFactory]
    factory: type[AnyNormFactory]
    """What `make` returns."""


NORM_FAMILIES: Mapping[FamilyName, NormFamily] = MappingProxyType(
    {
        "image": NormFamily(kind="norm", norms=NORMS, weights=WEIGHTS, make=make_norm, factory=NormFactory),
        "sequence": NormFamily(
            kind="sequence norm",
            norms=SEQUENCE_NORMS,
            weights=MappingProxyType({}),
            make=make_sequence_norm,
            factory=SequenceNormFactory,
        ),
    }
)
