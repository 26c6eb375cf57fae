"""Three style images drawn by formula, so that style transfer needs no file: uint8 RGB, ``(256, 256, 3)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

SIZE = 256

Pixels = NDArray[np.uint8]
_Floats = NDArray[np.float64]


def mosaic() -> Pixels:
    """Draw a stained-glass window: cells around random points, each in one bright color, with dark seams."""
    random = np.random.default_rng(1)
    points = random.uniform(0, SIZE, (150, 2))
    palette = np.array(
        [[190, 30, 45], [240, 170, 40], [20, 90, 160], [30, 140, 110], [110, 50, 130], [235, 225, 190]], float
    )
    colors = palette[random.integers(0, len(palette), len(points))] * random.uniform(0.8, 1.1, (len(points), 1))
    y, x = np.mgrid[:SIZE, :SIZE]
    cell = np.zeros((SIZE, SIZE), int)
    nearest, second = (np.full((SIZE, SIZE), np.inf) for _ in range(2))
    for number, (cy, cx) in enumerate(points):
        distance = np.hypot(_around(y - cy), _around(x - cx))
        second = np.minimum(second, np.maximum(nearest, distance))
        cell[distance < nearest] = number
        nearest = np.minimum(nearest, distance)
    seam = np.clip((second - nearest) / 3.5, 0, 1)[..., None]
    return _to_pixels(colors[cell] * seam + 25 * (1 - seam))


def waves() -> Pixels:
    """Draw bent stripes, blue to cream, as on a woodcut of the sea."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE * 2 * np.pi
    bent = 9 * y + 2.2 * np.sin(2 * x + np.sin(3 * y)) + 0.9 * np.sin(5 * x - 2 * y)
    palette = np.array([[16, 42, 86], [34, 96, 150], [120, 176, 196], [238, 226, 196], [205, 120, 70]], float)
    stops = np.linspace(0, 1, len(palette))
    position = 0.5 + 0.5 * np.sin(bent)
    picture = np.stack([np.interp(position, stops, palette[:, channel]) for channel in range(3)], axis=-1)
    contour = np.clip(np.abs(np.cos(bent / 2)) * 7, 0, 1)[..., None]
    return _to_pixels(picture * contour + 20 * (1 - contour))


def strokes() -> Pixels:
    """Draw thick short brush strokes that follow a swirling field, in yellows, blues and greens."""
    random = np.random.default_rng(3)
    canvas = np.full((SIZE, SIZE, 3), (40, 60, 110), float)
    palette = np.array([[245, 205, 70], [250, 235, 170], [40, 80, 160], [90, 150, 200], [60, 120, 90]], float)
    nearby = np.mgrid[-17:18, -17:18]
    for _ in range(1400):
        cy, cx = random.uniform(0, SIZE, 2)
        angle = 2.2 * np.sin(cx / 41) + 1.7 * np.cos(cy / 37)
        length, width = random.uniform(9, 16), random.uniform(1.6, 2.8)
        y, x = nearby[0] + int(cy), nearby[1] + int(cx)
        dy, dx = y - cy, x - cx
        along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        inside = (along / length) ** 2 + (across / width) ** 2 < 1
        bristles = 14 * np.sin(across * 2.4 + along * 0.1)
        color = palette[random.integers(len(palette))] * random.uniform(0.85, 1.1)
        canvas[y[inside] % SIZE, x[inside] % SIZE] = (color + bristles[..., None])[inside]
    return _to_pixels(canvas)


STYLE_IMAGES: Mapping[str, Callable[[], Pixels]] = MappingProxyType(
    {"mosaic": mosaic, "waves": waves, "strokes": strokes}
)


def _around(difference: _Floats) -> _Floats:
    """Return the shorter distance on a torus, so that the picture has no special border."""
    shorter: _Floats = np.minimum(np.abs(difference), SIZE - np.abs(difference))
    return shorter


def _to_pixels(picture: _Floats) -> Pixels:
    return np.clip(picture, 0, 255).round().astype(np.uint8)
