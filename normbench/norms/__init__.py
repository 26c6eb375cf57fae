"""The normalization layers, one file per method, with one catalog and one way to build them.

`NORMS` is readable without torch, so that listing, completion and docs start at once; a norm's file is imported when
its factory, from `make_norm`, builds the first layer. To add a norm: write ``build(num_channels, **options) ->
nn.Module`` in a file beside this one, and add one entry to `catalog.NORMS`. Norms of token sequences have a catalog of
their own, `SEQUENCE_NORMS`, with `make_sequence_norm`; `NORM_FAMILIES` holds both, and a model says which it takes.
"""

from __future__ import annotations

from normbench.norms.catalog import NORMS, SEQUENCE_NORMS, WEIGHTS
from normbench.norms.entry import Norm, Weight
from normbench.norms.factory import (
    NORM_FAMILIES,
    AnyNormFactory,
    FamilyName,
    NormFactory,
    NormFamily,
    NormLike,
    SequenceNormFactory,
    SequenceNormLike,
    as_factory,
    as_sequence_factory,
    make_norm,
    make_sequence_norm,
)
from normbench.registry import Option

__all__ = [
    "NORMS",
    "NORM_FAMILIES",
    "SEQUENCE_NORMS",
    "WEIGHTS",
    "AnyNormFactory",
    "FamilyName",
    "Norm",
    "NormFactory",
    "NormFamily",
    "NormLike",
    "Option",
    "SequenceNormFactory",
    "SequenceNormLike",
    "Weight",
    "as_factory",
    "as_sequence_factory",
    "make_norm",
    "make_sequence_norm",
]
