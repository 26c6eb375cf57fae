"""Weather: snow, frost, fog, and a bright day."""

from __future__ import annotations

import torch
from torch import Tensor

from normbench.evaluation.corruptions.filters import motion_trail, zoom_in

_SNOW = (
    (0.1, 0.2, 1.0, 0.6, 8, 3.0, 0.95),
    (0.1, 0.2, 1.0, 0.5, 10, 4.0, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12, 6.0, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14, 12.0, 0.8),
)
"""Mean and standard deviation of the flakes' brightness, their zoom, the brightness below which there is none, radius
and standard deviation of their trails, and the share of the image that stays as it is."""
_FROST = ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
"""Weights of image and frost."""
_FOG = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))
"""Density, and the factor by which the fog's contrast falls from each scale to the next finer one."""
_BRIGHTNESS = (0.05, 0.1, 0.15, 0.2, 0.3)
_GRAY = (0.299, 0.587, 0.114)
_FROST_TINT = (0.86, 0.94, 1.0)


def snow(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Whiten the image and add two layers of flakes with trails, one the other turned by 180 degrees."""
    mean, deviation, zoom, threshold, radius, sigma, kept = _SNOW[severity - 1]
    flakes = mean + deviation * torch.randn((len(x), 1, *x.shape[2:]), generator=generator, device=x.device)
    flakes = zoom_in(flakes, zoom)
    flakes = torch.where(flakes < threshold, 0.0, flakes.clamp(0, 1))
    angles = 90 * torch.rand(len(x), generator=generator, device=x.device) - 135
    flakes = motion_trail(flakes, radius, sigma, angles)
    gray = (x * x.new_tensor(_GRAY)[:, None, None]).sum(1, keepdim=True)
    whitened = kept * x + (1 - kept) * torch.maximum(x, 1.5 * gray + 0.5)
    return whitened + flakes + flakes.flip(2, 3)


def frost(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Lay drawn ice over the image. Not the official frost: that is cut from photographs, which are not in here.

    The ice is a fractal whose ridges are bright, tinted blue, with the weights of the official one.
    """
    weight, ice_weight = _FROST[severity - 1]
    ridges = 1 - (2 * plasma(len(x), x.shape[-1], 2.0, generator) - 1).abs()
    ice = ridges.square()[:, None] * x.new_tensor(_FROST_TINT)[:, None, None]
    return weight * x + ice_weight * ice


def fog(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Add a fractal of the same brightness in all channels, scaled back to the brightest value of the image."""
    density, decay = _FOG[severity - 1]
    brightest = x.amax((1, 2, 3), keepdim=True)
    return (x + density * plasma(len(x), x.shape[-1], decay, generator)[:, None]) * brightest / (brightest + density)


def brightness(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Raise the value of HSV, the largest channel, at the same hue and saturation. Exact."""
    value = x.amax(1, keepdim=True)
    raised = (value + _BRIGHTNESS[severity - 1]).clamp(max=1)
    return torch.where(value > 0, x * (raised / value.clamp(min=1e-12)), raised)


def plasma(num_images: int, size: int, decay: float, generator: torch.Generator) -> Tensor:
    """Return fractals from 0 to 1, ``(num_images, size, size)``, by diamonds and squares on a torus (Fournier 1982).

    From the coarsest scale to the finest each new point is the mean of four around it plus uniform noise, whose width
    falls by the square of `decay` from scale to scale, as that of the official program does.
    """
    side = 1 << (size - 1).bit_length()
    field = torch.zeros(num_images, side, side, device=generator.device)
    step, width = side, 100.0
    while step >= 2:
        half = step // 2
        corners = field[:, ::step, ::step]
        sums = corners + corners.roll(-1, 1)
        field[:, half::step, half::step] = _noisy((sums + sums.roll(-1, 2)) / 4, width, generator)
        middles = field[:, half::step, half::step]
        across = corners + corners.roll(-1, 2) + middles + middles.roll(1, 1)
        field[:, ::step, half::step] = _noisy(across / 4, width, generator)
        along = corners + corners.roll(-1, 1) + middles + middles.roll(1, 2)
        field[:, half::step, ::step] = _noisy(along / 4, width, generator)
        step, width = half, width / decay
    field -= field.amin((1, 2), keepdim=True)
    return (field / field.amax((1, 2), keepdim=True))[:, :size, :size]


def _noisy(mean: Tensor, width: float, generator: torch.Generator) -> Tensor:
    return mean + width**2 * (2 * torch.rand(mean.shape, generator=generator, device=mean.device) - 1)
