"""Filters that several corruptions share: Gaussian blur, zooming in, a trail of motion."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from normbench.evaluation.corruptions.borders import Border, border_index


def convolve(x: Tensor, kernel: NDArray[np.float64], border: Border) -> Tensor:
    """Correlate each channel of `x`, ``(N, C, H, W)``, with a kernel of odd sides, ``(K, K)``; the size is kept."""
    radius = len(kernel) // 2
    x = x.index_select(2, border_index(x.shape[2], radius, border, x.device))
    x = x.index_select(3, border_index(x.shape[3], radius, border, x.device))
    weight = torch.as_tensor(kernel, dtype=x.dtype, device=x.device).expand(x.shape[1], 1, -1, -1)
    return functional.conv2d(x, weight, groups=x.shape[1])


def gaussian_blur(x: Tensor, sigma: float, border: Border, truncate: float = 4.0) -> Tensor:
    """Blur by a normal kernel cut off at `truncate` standard deviations, as `scipy.ndimage.gaussian_filter` does."""
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return x
    row = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    row /= row.sum()
    return convolve(x, np.outer(row, row), border)


def zoom_in(x: Tensor, factor: float) -> Tensor:
    """Return the middle of `x`, ``(N, C, S, S)``, enlarged to the size that `x` has, by linear interpolation.

    The middle has ``ceil(S / factor)`` pixels a side, and corners stay corners, as in `scipy.ndimage.zoom`; of a larger
    result the middle is kept.
    """
    size = x.shape[-1]
    inner = math.ceil(size / factor)
    top = (size - inner) // 2
    middle = x[..., top : top + inner, top : top + inner]
    large = functional.interpolate(middle, size=(round(inner * factor),) * 2, mode="bilinear", align_corners=True)
    trim = (large.shape[-1] - size) // 2
    return large[..., trim : trim + size, trim : trim + size]


def motion_trail(x: Tensor, radius: int, sigma: float, angles: Tensor) -> Tensor:
    """Average along a straight trail of ``2 radius + 1`` pixels with half of a normal kernel, edges repeated.

    One direction per image, `angles` in degrees, ``(N,)``, to whole pixels. The official files were made with
    ImageMagick, whose motion blur this follows without having been compared with it.
    """
    num_images, channels, height, width = x.shape
    length = 2 * radius + 1
    weights = np.exp(-0.5 * (np.arange(length) / sigma) ** 2)
    weights /= weights.sum()
    radians = torch.deg2rad(angles)
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    total = torch.zeros_like(x)
    for step, weight in enumerate(weights.tolist()):
        down = (step * torch.sin(radians) - 0.5).ceil().long()
        right = (step * torch.cos(radians) - 0.5).ceil().long()
        at_row = (rows + down[:, None]).clamp(0, height - 1)  # (N, H)
        at_column = (columns + right[:, None]).clamp(0, width - 1)  # (N, W)
        where = at_row[:, :, None] * width + at_column[:, None, :]
        where = where.reshape(num_images, 1, -1).expand(-1, channels, -1)
        total += weight * x.flatten(2).gather(2, where).view_as(x)
    return total
