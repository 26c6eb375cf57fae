"""The normalization layers: one registry a family, one way to build them.

`NORMS` is readable without torch, so that listing, completion and docs start at once; `make_norm` imports the
family file of the norm it builds. To add a norm: write ``build(num_channels, **options) -> nn.Module`` in a family file
beside this one, and add one entry to `catalog.NORMS`. Norms of token sequences have their own registry,
`SEQUENCE_NORMS`, with `make_sequence_norm`; `NORM_FAMILIES` says which registry a model takes.
"""

from __future__ import annotations

from normbench.norms.catalog import NORMS, WEIGHTS
from normbench.norms.entry import Norm, Option, Weight
from normbench.norms.factory import NormFactory, make_norm
from normbench.norms.families import (
    NORM_FAMILIES,
    AnyNormFactory,
    FamilyName,
    NormFamily,
    SequenceNormFactory,
    make_sequence_norm,
)
from normbench.norms.sequence_catalog import SEQUENCE_NORMS

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
    "Option",
    "SequenceNormFactory",
    "Weight",
    "make_norm",
    "make_sequence_norm",
]
