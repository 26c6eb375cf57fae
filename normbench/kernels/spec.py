"""The descriptions of a fused normalization and activation, by which kernels are chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scope = Literal["sample", "batch", "position"]
Activation = Literal["none", "relu", "gelu", "tlu", "swish"]
Formula = Literal["batch_instance", "switch", "batch_group", "evonorm_b0", "evonorm_b1", "evonorm_b2"]


@dataclass(frozen=True, kw_only=True)
class NormActSpec:
    """One normalization and the activation after it.

    With the mean and the biased variance over the statistics' axes, ``normalized = (x - mean) / sqrt(var + eps)``, and
    where `centered` is false ``normalized = x / sqrt(mean(x^2) + eps)``. Then, by `activation`:

    - ``none``: ``normalized * weight + bias``
    - ``relu``: the same, ``max(., 0)``
    - ``gelu``: the same, times the normal distribution's share below it (arXiv 1606.08415)
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


@dataclass(frozen=True, kw_only=True)
class MomentsSpec:
    """One normalization by several statistics at once, and the ReLU after it, if any.

    All statistics come from the moments of each sample and channel, `mean` and `var` over (H, W), which one pass over
    the input leaves: those of the batch are `batch_mean` and `batch_var` over N, H and W, those of the layer are over
    C, H and W. The output is, by `formula`, with ``std = sqrt(var + eps)``:

    - ``batch_instance``: ``(g * (x - batch_mean) / batch_std + (1 - g) * (x - mean) / std) * weight + bias``, where g
      is the gate `extra`; without it 0 for the first `instance_channels` channels and 1 for the others. BN, ghost BN,
      batch renormalization, batch-instance norm and IBN are of this kind.
    - ``switch``: ``(x - mixed_mean) / sqrt(mixed_var + eps) * weight + bias``, mixed from those of instance, layer
      and batch by the softmax of the logits `extra` (means) and `extra2` (variances): switchable norm.
    - ``batch_group``: BN with `weight` and `bias`, then the mean and variance of its output over (C/groups, H, W),
      then the scale `extra` and shift `extra2` of each group: batch-channel norm.
    - ``evonorm_b0``, ``evonorm_b1``, ``evonorm_b2``: ``x / max(batch_std, other) * weight + bias`` (arXiv 2004.02967),
      where `other` is ``extra * x + std``, ``(x + 1) * rms`` or ``rms - x`` with ``rms = sqrt(mean(x^2) + eps)``.
    """

    formula: Formula
    activation: Literal["none", "relu"] = "relu"
    eps: float = 1e-5
    batch: bool = True
    """Whether statistics of the batch take part; false for a switchable norm without them."""
    gated: bool = False
    """Whether `extra` is a gate of ``batch_instance``."""
    instance_channels: int = 0
    """Channels of ``batch_instance`` whose gate is 0."""
    renorm: bool = False
    """Whether ``batch_instance`` corrects towards the running statistics (arXiv 1702.03275), of which the second is
    then a standard deviation; `extra` and `extra2` are the limits of the corrections."""
    groups: int = 1
    """Groups of channels of ``batch_group``."""
    sub_batch: int | None = None
    """Consecutive samples that share the batch statistics; all of them where it is None."""

    def num_groups(self, num_channels: int) -> int:
        """Return how many groups of channels have a statistic in common; all of them where there is no such."""
        return {"switch": 1, "batch_group": self.groups}.get(self.formula, num_channels)

    @property
    def by_instance(self) -> bool:
        """Whether a statistic of each sample takes part."""
        return self.formula != "batch_instance" or self.gated or self.instance_channels > 0

    @property
    def differentiates_running(self) -> bool:
        """Whether there is a gradient where running statistics take the place of the batch's."""
        return not self.by_instance


@dataclass(frozen=True, kw_only=True)
class WindowSpec:
    """Local response normalization, and the ReLU after it, if any.

    ``y = x / (k + alpha / size * sum of squares over a window of channels) ** beta``, where the window has
    ``size // 2`` channels before the value's own and zeros beyond the first and last.
    """

    size: int
    alpha: float
    beta: float
    k: float
    activation: Literal["none", "relu"] = "relu"


@dataclass(frozen=True, kw_only=True)
class PixelSpec:
    """Layer normalization over (C, H, W), a scale and a shift for each element, and the ReLU after it, if any."""

    shape: tuple[int, int, int]
    """The (C, H, W) of the scale and the shift, and so of the input."""
    activation: Literal["none", "relu"] = "relu"
    eps: float = 1e-5
