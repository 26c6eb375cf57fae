"""What computers do to images: contrast, warping, pixels, and JPEG."""

from __future__ import annotations

from math import cos, pi, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from normbench.evaluation.corruptions.borders import Border, fold
from normbench.evaluation.corruptions.filters import gaussian_blur

_CONTRAST = (0.75, 0.5, 0.4, 0.3, 0.15)
_ELASTIC = ((0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
"""Strength and smoothness of the local shifts, and largest shift of a corner, as shares of the image's side."""
_PIXELATE = (0.95, 0.9, 0.85, 0.75, 0.65)
_QUALITY = (80, 65, 58, 50, 40)

# The tables of the JPEG standard (ITU-T T.81, annex K), for quality 50.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), *((99,) * 8,) * 4,
)  # fmt: skip
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_FROM_YCC = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def contrast(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Move every value towards the mean of its channel in its image. Exact."""
    mean = x.mean((2, 3), keepdim=True)
    return mean + _CONTRAST[severity - 1] * (x - mean)


def elastic_transform(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Move three points at random and the image with them, then shift each pixel by a smooth random field."""
    size = x.shape[-1]
    strength, smoothness, shift = (share * size for share in _ELASTIC[severity - 1])
    rows, columns = torch.meshgrid(*(torch.arange(size, device=x.device, dtype=x.dtype),) * 2, indexing="ij")
    x = sample(x, *_affine_places(len(x), rows, columns, shift, generator), "mirror")
    field = 2 * torch.rand((len(x), 2, size, size), generator=generator, device=x.device) - 1
    down, right = (strength * gaussian_blur(field, smoothness, "reflect", truncate=3.0)).unbind(1)
    return sample(x, rows + down, columns + right, "reflect")


def _affine_places(
    num_images: int, rows: Tensor, columns: Tensor, shift: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return from where each pixel is taken, rows and columns, ``(num_images, H, W)``: an affine map per image."""
    size = len(rows)
    center, side = size // 2, size // 3
    high, low = center + side, center - side
    before = rows.new_tensor([(high, high), (high, low), (low, low)]).double()  # (3 points, x and y)
    moves = shift * (2 * torch.rand((num_images, 3, 2), generator=generator, device=rows.device) - 1)
    after = torch.cat([before + moves, torch.ones_like(moves[..., :1])], dim=2)
    maps = torch.linalg.solve(after.double(), before.expand(num_images, -1, -1)).float()  # (N, 3, 2)
    places = torch.stack([columns, rows, torch.ones_like(rows)], dim=-1) @ maps[:, None]  # (N, H, W, 2)
    return places[..., 1], places[..., 0]


def sample(x: Tensor, rows: Tensor, columns: Tensor, border: Border) -> Tensor:
    """Return `x`, ``(N, C, H, W)``, at fractional places, ``(N, H, W)``, by linear interpolation."""
    size = x.shape[-1]
    top, left = rows.floor(), columns.floor()
    total = torch.zeros_like(x)
    for row, row_share in ((top, top + 1 - rows), (top + 1, rows - top)):
        for column, column_share in ((left, left + 1 - columns), (left + 1, columns - left)):
            where = (fold(row, size, border) * size + fold(column, size, border)).long()
            values = x.flatten(2).gather(2, where.flatten(1)[:, None].expand(-1, x.shape[1], -1)).view_as(x)
            total += (row_share * column_share)[:, None] * values
    return total


def pixelate(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Make the image smaller and large again, by the mean over the pixels in a box. Exact, up to rounding to 8 bits."""
    size = x.shape[-1]
    small = int(size * _PIXELATE[severity - 1])
    for matrix in (box_matrix(size, small), box_matrix(small, size)):
        weights = torch.as_tensor(matrix, dtype=x.dtype, device=x.device)
        x = ((weights @ x @ weights.T) * 255).round() / 255
    return x


def box_matrix(size: int, new_size: int) -> NDArray[np.float64]:
    """Return Pillow's box filter from `size` to `new_size` pixels, ``(new_size, size)``: pixels count whole or not."""
    scale = size / new_size
    centers = (np.arange(new_size) + 0.5) * scale
    distance = (np.arange(size) + 0.5 - centers[:, None]) / max(scale, 1.0)
    inside = (distance > -0.5) & (distance <= 0.5)
    matrix: NDArray[np.float64] = inside / inside.sum(axis=1, keepdims=True)
    return matrix


def jpeg_compression(x: Tensor, severity: int, generator: torch.Generator) -> Tensor:
    """Quantize the cosine transform of blocks of 8x8 pixels, colors at half the resolution, as JPEG does."""
    height, width = x.shape[2:]
    padded = functional.pad(255 * x, (0, -width % 16, 0, -height % 16), mode="replicate")
    ycc = torch.einsum("oc,nchw->nohw", x.new_tensor(_TO_YCC), padded)
    luma = _quantized(ycc[:, :1] - 128, _LUMA, _QUALITY[severity - 1]) + 128
    chroma = _quantized(functional.avg_pool2d(ycc[:, 1:], 2), _CHROMA, _QUALITY[severity - 1])
    chroma = functional.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    rgb = torch.einsum("oc,nchw->nohw", x.new_tensor(_FROM_YCC), torch.cat([luma, chroma], dim=1))
    return rgb[..., :height, :width].round() / 255


def _quantized(x: Tensor, table: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """Return planes ``(N, C, H, W)`` after their blocks' coefficients are rounded to multiples of the table's."""
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    steps = x.new_tensor(table).mul(scale).add(50).div(100).floor().clamp(1, 255)
    cosines = x.new_tensor(_cosines())
    blocks = x.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)  # (N, C, H/8, W/8, 8, 8)
    coefficients = ((cosines @ blocks @ cosines.T) / steps).round() * steps
    restored = (cosines.T @ coefficients @ cosines).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    rounded: Tensor = restored.round()
    return rounded


def _cosines() -> list[list[float]]:
    """Return the orthonormal cosine transform of eight values, a frequency a row."""
    return [[(sqrt(0.125) if k == 0 else 0.5) * cos(pi * k * (2 * n + 1) / 16) for n in range(8)] for k in range(8)]
