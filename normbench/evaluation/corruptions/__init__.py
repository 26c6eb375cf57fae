"""Fifteen kinds of damage to images in five severities, drawn on the device, or read from the files of CIFAR-10-C.

Kinds and strengths are those with which CIFAR-10-C was made (Hendrycks & Dietterich 2019, arXiv 1903.12261; the script
that made them). What is exact and what is not is said where it is computed, and in docs/evaluation.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from normbench.data.cifar_c import read_corruption
from normbench.data.randomness import derive_seed
from normbench.engine.batches import DeviceImages
from normbench.engine.device import synchronize
from normbench.engine.memory import room_mib
from normbench.evaluation.corruptions import blur, digital, noise, weather
from normbench.registry import find

Corrupt = Callable[[Tensor, int, torch.Generator], Tensor]
"""Takes images ``(N, 3, H, W)`` from 0 to 1, a severity from 1 to 5 and a source of random numbers on their device;
returns the corrupted images, not clipped."""

KINDS: Mapping[str, Corrupt] = MappingProxyType(
    {
        "gaussian_noise": noise.gaussian_noise,
        "shot_noise": noise.shot_noise,
        "impulse_noise": noise.impulse_noise,
        "defocus_blur": blur.defocus_blur,
        "glass_blur": blur.glass_blur,
        "motion_blur": blur.motion_blur,
        "zoom_blur": blur.zoom_blur,
        "snow": weather.snow,
        "frost": weather.frost,
        "fog": weather.fog,
        "brightness": weather.brightness,
        "contrast": digital.contrast,
        "elastic_transform": digital.elastic_transform,
        "pixelate": digital.pixelate,
        "jpeg_compression": digital.jpeg_compression,
    }
)
SEVERITIES = (1, 2, 3, 4, 5)
_IMAGES_AT_ONCE = 1000
"""Fixed, because the random numbers of an image depend on those before it."""

_KEPT_SHARE = 0.1
_kept: WeakKeyDictionary[DeviceImages, dict[tuple[str, int, int], DeviceImages]] = WeakKeyDictionary()


def corrupt(images: Tensor, kind: str, severity: int, seed: int) -> Tensor:
    """Return `images`, uint8 ``(N, 3, H, W)``, corrupted; the same on the same kind of device and version of torch.

    Raises:
        UnknownNameError: there is no such kind.
    """
    apply = find("corruption", kind, KINDS)
    generator = torch.Generator(images.device).manual_seed(derive_seed(seed, f"corruption {kind}", severity))
    parts = [apply(part.float() / 255, severity, generator) for part in images.split(_IMAGES_AT_ONCE)]
    return torch.cat([(part.clamp(0, 1) * 255 + 1e-3).to(torch.uint8) for part in parts])  # cut off, as theirs are


def corrupted(images: DeviceImages, kind: str, severity: int, seed: int, official: Path | None = None) -> DeviceImages:
    """Return a corrupted split: drawn, or read from the folder `official` of CIFAR-10-C.

    What was drawn on a GPU with room for all of it is kept there as long as `images`: runs of a process share both.

    Raises:
        DataError: the official files are missing or damaged, or are of other images.
    """
    if official is not None:
        found = read_corruption(official, kind, severity, images.labels.cpu().numpy())
        return images.like(torch.from_numpy(found).to(images.labels.device).permute(0, 3, 1, 2))
    kept = _kept.setdefault(images, {})
    if (kind, severity, seed) in kept:
        return kept[kind, severity, seed]
    drawn = images.like(corrupt(images.images, kind, severity, seed))
    if _has_room(images):
        synchronize("cuda")  # another run reads it on a stream of its own
        kept[kind, severity, seed] = drawn
    return drawn


def _has_room(images: DeviceImages) -> bool:
    """Return whether `images` in all kinds and severities are little of the free memory of a GPU."""
    if images.labels.device.type != "cuda":
        return False
    wanted = images.images.numel() * len(KINDS) * len(SEVERITIES) / 2**20
    return wanted < _KEPT_SHARE * (room_mib("cuda") or 0.0)
