"""Blur: out of focus, through frosted glass, by motion, by zooming."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normbench.evaluation.corruptions.filters import convolve, gaussian_blur, motion_trail, zoom_in

_DISK = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))
"""Radius of the aperture, standard deviation of the kernel that softens its edge."""
_GLASS = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))
"""Standard deviation of the blur before and after, number of times that pixels are moved."""
_MOTION = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))
"""Radius and standard deviation of the trail."""
_ZOOM = (1.06, 1.11, 1.16, 1.21, 1.26)
"""The zoom at which the average over hundredths ends, itself excluded."""


def defocus_blur(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Correlate with a disk whose edge a 3x3 normal kernel softens. Exact."""
    return convolve(x, disk(*_DISK[severity - 1]), "mirror")


def disk(radius: float, softness: float) -> NDArray[np.float64]:
    """Return a disk that sums to 1, softened, ``(17, 17)``."""
    rows, columns = np.mgrid[-8:9, -8:9]
    inside = (rows**2 + columns**2 <= radius**2).astype(np.float64)
    edge = np.exp(-0.5 * (np.array([-1.0, 0.0, 1.0]) / softness) ** 2)
    edge /= edge.sum()
    padded = np.pad(inside / inside.sum(), 1)
    softened: NDArray[np.float64] = np.zeros((17, 17))
    for (row, column), weight in np.ndenumerate(np.outer(edge, edge)):
        softened += weight * padded[row : row + 17, column : column + 17]
    return softened


def glass_blur(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Blur, move pixels from up to one place above and to the left, blur.

    In the official program pixels are meant to change places, but its assignment copies one over the other, and in its
    order each copies what has not been moved yet: so moving is one gather.
    """
    sigma, times = _GLASS[severity - 1]
    x = (gaussian_blur(x, sigma, "repeat") * 255 + 1e-3).floor() / 255
    num_images, channels, height, width = x.shape
    rows = torch.arange(height, device=x.device)[:, None]
    columns = torch.arange(width, device=x.device)[None, :]
    moves = (rows >= 2) & (columns >= 2)  # the official loops end there
    for _ in range(times):
        up, left = torch.randint(2, (2, num_images, height, width), generator=generator, device=x.device) * moves
        where = (rows - up) * width + columns - left
        x = x.flatten(2).gather(2, where.view(num_images, 1, -1).expand(-1, channels, -1)).view_as(x)
    return gaussian_blur(x, sigma, "repeat")


def motion_blur(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Average along a trail whose direction is uniform over ±45 degrees, another for each image."""
    angles = 90 * torch.rand(len(x), generator=generator, device=x.device) - 45
    return motion_trail(x, *_MOTION[severity - 1], angles)


def zoom_blur(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Average the image and its enlargements by 1, 1.01, 1.02 and so on. Exact."""
    factors = np.arange(1, _ZOOM[severity - 1], 0.01).tolist()
    return torch.stack([x, *(zoom_in(x, factor) for factor in factors)]).mean(0)
