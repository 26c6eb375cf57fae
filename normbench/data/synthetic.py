"""Built-in images, for demos, tests and machines without a network: ten classes of drawn shapes and textures.

The class is in the form alone. Colours, position, size, rotation, contrast, brightness, background, clutter and noise
are drawn for each image, over ranges so wide that neither a single pixel nor a mean colour tells the class. Contrast
varies fivefold from image to image, which is what normalization layers differ in handling.
"""

# mypy: disable-error-code="no-any-return"
# (NumPy's annotations lose float32 in arithmetic and give Any.)

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normbench.data.images import IMAGE_SHAPE, ImageDataset, check_count
from normbench.data.randomness import derive_seed
from normbench.errors import ConfigError

CLASS_NAMES = ("disk", "ring", "square", "triangle", "star", "cross", "stripes", "checks", "dots", "ripples")
MAX_IMAGES = 1_000_000
IMAGES_PER_CHUNK = 500
"""Images drawn at a time, each chunk from its own stream: a smaller data set is the beginning of a larger one."""

_MAX_THREADS = 8
"""Each takes 50 MB while it draws."""

Floats = NDArray[Any]
"""float32 arrays."""


def load_synthetic(*, num_train: int = 10_000, num_test: int = 2_000, seed: int = 0) -> ImageDataset:
    """Draw the data set: the same for the same options, classes in turn, a few seconds for the default size.

    Args:
        num_train: number of training images.
        num_test: number of test images; they come from other random streams than the training images.
        seed: of the images, and not the run's seed: runs with different seeds see the same images.

    Raises:
        ConfigError: an option's value is not allowed.
    """
    check_count("num_train", num_train, MAX_IMAGES)
    check_count("num_test", num_test, MAX_IMAGES)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"dataset: seed must be a whole number from 0, not {seed!r}")
    x_train, y_train = _draw_split(num_train, seed, "train")
    x_test, y_test = _draw_split(num_test, seed, "test")
    return ImageDataset(
        name="synthetic",
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        class_names=CLASS_NAMES,
        source=f"drawn by normbench (seed {seed})",
        is_synthetic=True,
        eval_split="test",
    )


def _draw_split(num_images: int, seed: int, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images = np.empty((num_images, *IMAGE_SHAPE), np.uint8)
    labels = np.arange(num_images) % len(CLASS_NAMES)

    def draw(chunk: int, start: int) -> None:
        random = np.random.default_rng(derive_seed(seed, f"synthetic {split}", chunk))
        drawn = _draw(np.arange(IMAGES_PER_CHUNK) % len(CLASS_NAMES), random)
        images[start : start + IMAGES_PER_CHUNK] = drawn[: num_images - start]

    starts = range(0, num_images, IMAGES_PER_CHUNK)
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:  # NumPy works without Python's lock
        list(pool.map(draw, range(len(starts)), starts))
    return images, labels


def _draw(labels: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one image for each label: uint8 ``(N, 32, 32, 3)``."""
    num_images = len(labels)
    foreground, background, gradient, clutter = _palette(num_images, random)
    image = background + gradient * _ramp(num_images, random)[..., None]
    image += (clutter - image) * _strokes(num_images, random)[..., None]
    image += (foreground - image) * _forms(labels, random)[..., None]
    image += _cloud(num_images, random)

    mean = image.mean(axis=(1, 2), keepdims=True)
    contrast = 0.2 ** _uniform(random, 0, 1, num_images, 1, 1, 1)
    brightness = _uniform(random, 0.3, 0.7, num_images, 1, 1, 1)
    image = brightness + contrast * (image - mean)
    noise = _uniform(random, 0.01, 0.05, num_images, 1, 1, 1) * (0.15 + contrast)
    image += noise * random.standard_normal(image.shape, np.float32)
    quantized: NDArray[np.uint8] = np.rint(image.clip(0, 1) * 255).astype(np.uint8)
    return quantized


def _uniform(random: np.random.Generator, low: float, high: float, *shape: int) -> Floats:
    return low + (high - low) * random.random(shape, np.float32)


def _grid(num_images: int) -> tuple[Floats, Floats]:
    """Return x and y of the pixels, -1 to 1, each broadcastable to ``(N, 32, 32)``."""
    height, width, _ = IMAGE_SHAPE
    y = np.linspace(-1, 1, height, dtype=np.float32)[None, :, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, None, :]
    return np.broadcast_to(x, (num_images, height, width)), np.broadcast_to(y, (num_images, height, width))


def _palette(num_images: int, random: np.random.Generator) -> tuple[Floats, Floats, Floats, Floats]:
    """Draw four colours per image, each ``(N, 1, 1, 3)``; the foreground is lighter than the background."""
    background = _uniform(random, 0.0, 0.5, num_images, 1, 1, 3)
    foreground = background + _uniform(random, 0.1, 0.8, num_images, 1, 1, 3)
    gradient = _uniform(random, -0.25, 0.25, num_images, 1, 1, 3)
    clutter = _uniform(random, 0.0, 1.0, num_images, 1, 1, 3)
    return foreground, background, gradient, clutter


def _ramp(num_images: int, random: np.random.Generator) -> Floats:
    """Draw a linear ramp from -1 to 1 in a random direction: ``(N, 32, 32)``."""
    x, y = _grid(num_images)
    angle = _uniform(random, 0, 2 * np.pi, num_images, 1, 1)
    return np.cos(angle) * x + np.sin(angle) * y


def _cloud(num_images: int, random: np.random.Generator) -> Floats:
    """Draw soft blotches of colour: the sum of a few long waves, ``(N, 32, 32, 3)``."""
    cloud = np.zeros((num_images, *IMAGE_SHAPE), np.float32)
    x, y = _grid(num_images)
    for _ in range(2):
        wave_x, wave_y, phase = (_uniform(random, -4, 4, num_images, 1, 1) for _ in range(3))
        colour = _uniform(random, -0.12, 0.12, num_images, 1, 1, 3)
        cloud += np.sin(wave_x * x + wave_y * y + phase)[..., None] * colour
    return cloud


def _strokes(num_images: int, random: np.random.Generator) -> Floats:
    """Draw how much clutter covers each pixel, 0 to 1: up to two thin lines across the image, ``(N, 32, 32)``."""
    x, y = _grid(num_images)
    coverage = np.zeros(x.shape, np.float32)
    for _ in range(2):
        angle = _uniform(random, 0, 2 * np.pi, num_images, 1, 1)
        offset = _uniform(random, -2, 2, num_images, 1, 1)  # beyond about 1 the line misses the image
        distance = np.abs(np.cos(angle) * x + np.sin(angle) * y - offset)
        np.maximum(coverage, _edge(distance - 0.04), out=coverage)
    return coverage * 0.7


def _forms(labels: NDArray[np.int64], random: np.random.Generator) -> Floats:
    """Draw how much each pixel belongs to the form that is the class, 0 to 1: ``(N, 32, 32)``."""
    num_images = len(labels)
    x, y = _grid(num_images)
    radius = _uniform(random, 0.4, 0.7, num_images, 1, 1)
    centre_x, centre_y = (_uniform(random, -1, 1, num_images, 1, 1) * (0.95 - radius) for _ in range(2))
    angle = _uniform(random, -0.5, 0.5, num_images, 1, 1)
    along = (np.cos(angle) * (x - centre_x) + np.sin(angle) * (y - centre_y)) / radius
    across = (np.cos(angle) * (y - centre_y) - np.sin(angle) * (x - centre_x)) / radius
    wavenumber = _uniform(random, 3.2, 5.2, num_images, 1, 1) / radius**0.5
    distance = np.empty(x.shape, np.float32)
    for label, form in enumerate((_disk, _ring, _square, _triangle, _star, _cross, _stripes, _checks, _dots, _ripples)):
        chosen = labels == label
        distance[chosen] = form(along[chosen], across[chosen], wavenumber[chosen])
    return _edge(distance * radius)


def _edge(distance: Floats) -> Floats:
    """Turn a signed distance, negative inside and in units of half an image, into coverage with soft edges."""
    return np.clip(0.5 - distance * 12, 0, 1)


# The forms: signed distance from the edge, negative inside, of points in units of the form's radius. Textures fill a
# disk; `k` is their wavenumber in radians per radius.


def _disk(x: Floats, y: Floats, k: Floats) -> Floats:
    return np.hypot(x, y) - 0.95


def _ring(x: Floats, y: Floats, k: Floats) -> Floats:
    return np.abs(np.hypot(x, y) - 0.75) - 0.2


def _square(x: Floats, y: Floats, k: Floats) -> Floats:
    return np.maximum(np.abs(x), np.abs(y)) - 0.8


def _triangle(x: Floats, y: Floats, k: Floats) -> Floats:
    return np.maximum(-y, 0.5 * y + np.sqrt(0.75, dtype=np.float32) * np.abs(x)) - 0.55


def _star(x: Floats, y: Floats, k: Floats) -> Floats:
    fold = 2 * np.pi / 5
    angle = np.abs((np.arctan2(x, y) + np.pi / 5) % fold - np.pi / 5)  # 0 at a point, pi/5 in a notch
    return np.hypot(x, y) - 1.05 + 0.62 * np.sqrt(angle / (np.pi / 5))


def _cross(x: Floats, y: Floats, k: Floats) -> Floats:
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - 0.27, y - 1), np.maximum(x - 1, y - 0.27))


def _stripes(x: Floats, y: Floats, k: Floats) -> Floats:
    return _in_disk(x, y, np.sin(2 * k * x) / (2 * k))


def _checks(x: Floats, y: Floats, k: Floats) -> Floats:
    return _in_disk(x, y, np.sin(1.5 * k * x) * np.sin(1.5 * k * y) / (1.5 * k))


def _dots(x: Floats, y: Floats, k: Floats) -> Floats:
    return _in_disk(x, y, (np.cos(1.5 * k * x) + np.cos(1.5 * k * y) - 0.8) / (-1.5 * k))


def _ripples(x: Floats, y: Floats, k: Floats) -> Floats:
    return _in_disk(x, y, np.cos(2.4 * k * np.hypot(x, y)) / (2.4 * k))


def _in_disk(x: Floats, y: Floats, texture: Floats) -> Floats:
    return np.maximum(texture, np.hypot(x, y) - 1)
