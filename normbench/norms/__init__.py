"""The normalization layers: one registry, one way to build them.

`NORMS` is readable without torch, so that listing, completion and docs start at once; `make_norm` imports the
family file of the norm it builds. To add a norm: write ``build(num_channels, **options) -> nn.Module`` in a family file
beside this one, and add one entry to `catalog.NORMS`.
"""

from __future__ import annotations

from normbench.norms.catalog import NORMS, WEIGHTS
from normbench.norms.entry import Norm, Option, Weight
from normbench.norms.factory import NormFactory, make_norm

__all__ = ["NORMS", "WEIGHTS", "Norm", "NormFactory", "Option", "Weight", "make_norm"]
