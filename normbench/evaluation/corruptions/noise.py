"""Noise in every value of an image: exact, up to the random numbers."""

from __future__ import annotations

import torch
from torch import Tensor

_DEVIATION = (0.04, 0.06, 0.08, 0.09, 0.10)
_PHOTONS = (500, 250, 100, 75, 50)
_SHARE = (0.01, 0.02, 0.03, 0.05, 0.07)


def gaussian_noise(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Add normal noise."""
    return x + _DEVIATION[severity - 1] * torch.randn(x.shape, generator=generator, device=x.device)


def shot_noise(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Draw each value as a count of photons, Poisson with a mean in proportion to it."""
    photons = _PHOTONS[severity - 1]
    return torch.poisson(x * photons, generator=generator) / photons


def impulse_noise(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Set a share of the values to 0 or 1, each channel by itself."""
    where, which = torch.rand((2, *x.shape), generator=generator, device=x.device)
    return torch.where(where < _SHARE[severity - 1], (which < 0.5).to(x.dtype), x)
