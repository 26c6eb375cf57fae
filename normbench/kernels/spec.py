"""The description of a fused normalization and activation, by which kernels are chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scope = Literal["sample", "batch", "position"]
Activation = Literal["none", "relu", "tlu", "swish"]


@dataclass(frozen=True, kw_only=True)
class NormActSpec:
    """One normalization and the activation after it.

    With the mean and the biased variance over the statistics' axes, ``normalized = (x - mean) / sqrt(var + eps)``, and
    where `centered` is false ``normalized = x / sqrt(mean(x^2) + eps)``. Then, by `activation`:

    - ``none``: ``normalized * weight + bias``
    - ``relu``: the same, ``max(., 0)``
    - ``tlu``: the same, ``max(., extra)``: the thresholded linear unit of FRN (arXiv 1911.09737)
    - ``swish``: ``x * sigmoid(extra * x) / sqrt(var + eps) * weight + bias``: EvoNorm-S (arXiv 2004.02967)
    """

    scope: Scope
    """Axes of the statistics: ``sample`` (C/groups, H, W), ``batch`` (N, H, W), ``position`` (C)."""
    groups: int = 1
    """Groups of channels, for the scope ``sample``; 1 is LN, C is IN."""
    centered: bool = True
    activation: Activation = "relu"
    eps: float = 1e-5

    def num_groups(self, num_channels: int) -> int:
        """Return how many groups of channels have statistics of their own."""
        return {"sample": self.groups, "batch": num_channels, "position": 1}[self.scope]
