"""The perceptual loss of style transfer: content, style and smoothness.

Gatys, Ecker & Bethge 2015, "A Neural Algorithm of Artistic Style", arXiv 1508.06576, in the form of Johnson, Alahi &
Fei-Fei 2016, arXiv 1603.08155, but relative: a squared distance is divided by the target's own square, so that 1 means
"as far away as nothing at all" and one weight fits feature networks of any scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_TINY = 1e-12


def gram_matrix(features: torch.Tensor) -> torch.Tensor:
    """Return ``F F^T / (C H W)`` of each sample, F being its features as C rows: ``(N, C, H, W)`` -> ``(N, C, C)``."""
    rows = features.float().flatten(2)  # (N, C, H*W)
    return rows @ rows.transpose(1, 2) / (rows.shape[1] * rows.shape[2])


def relative_distance(values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean over samples of ``|values - target|^2 / |target|^2``; `target` has N samples or one."""
    square = (values.float() - target.float()).square().flatten(1).sum(dim=1)
    return (square / target.float().square().flatten(1).sum(dim=1).clamp(min=_TINY)).mean()


def content_loss(features: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return how far features ``(N, C, H, W)`` are from those of the content image."""
    return relative_distance(features, target)


def style_loss(features: Sequence[torch.Tensor], target_grams: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return how far the Gram matrices of the features are from the style's ``(1, C, C)``: the mean over layers."""
    distances = [relative_distance(gram_matrix(maps), gram) for maps, gram in zip(features, target_grams, strict=True)]
    return torch.stack(distances).mean()


def total_variation(images: torch.Tensor) -> torch.Tensor:
    """Return the mean squared difference of vertical, plus that of horizontal neighbors, of ``(N, 3, H, W)``."""
    images = images.float()
    return images.diff(dim=2).square().mean() + images.diff(dim=3).square().mean()
