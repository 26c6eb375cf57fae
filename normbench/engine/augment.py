"""Random crop and horizontal flip of whole batches on the device.

The usual CIFAR-10 augmentation (He et al. 2015, arXiv 1512.03385, section 4.2), but the border is reflected, not black.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from normbench.data.randomness import generator

MAX_SHIFT = 4
"""Pixels by which an image is padded on each side before it is cropped to its own size."""
MAX_ALTERNATE_SHIFT = 2
"""The same where flips alternate: airbench's."""


class CropFlip(NamedTuple):
    """The crop and flip of each image of an epoch: three tensors ``(N,)``."""

    dx: torch.Tensor
    """Pixels that the crop's window lies to the right of the image: int64, -4 to 4."""
    dy: torch.Tensor
    """Pixels that the window lies below the image: int64, -4 to 4."""
    flip: torch.Tensor
    """Whether the crop is then mirrored from left to right: bool."""


def draw_crop_flip(num_images: int, seed: int, epoch: int) -> CropFlip:
    """Draw the crop and flip of every image for one epoch, on the CPU and the same for every norm and device."""
    source = generator(seed, "augmentation", epoch)
    dx, dy = torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, (2, num_images), generator=source)
    return CropFlip(dx, dy, torch.rand(num_images, generator=source) < 0.5)


def draw_augmentation(kind: str, num_images: int, seed: int, epoch: int) -> CropFlip | None:
    """Draw what an epoch does to every image, on the CPU; `kind` is `augment` of the training settings.

    ``shift_alternate`` draws which images are mirrored in the first epoch; from then on each is in every other
    (Jordan 2024, arXiv 2404.00498): of two epochs in a row, none repeats what the other has shown.
    """
    if kind == "none":
        return None
    if kind == "crop_flip":
        return draw_crop_flip(num_images, seed, epoch)
    limit = MAX_ALTERNATE_SHIFT
    source = generator(seed, "augmentation", epoch)
    dx, dy = torch.randint(-limit, limit + 1, (2, num_images), generator=source)
    first = torch.rand(num_images, generator=generator(seed, "flip", 0)) < 0.5
    return CropFlip(dx, dy, first if epoch % 2 == 0 else ~first)


def apply_crop_flip(
    images: torch.Tensor, shift_y: torch.Tensor, shift_x: torch.Tensor, flip: torch.Tensor
) -> torch.Tensor:
    """Crop and mirror each image of a batch: one gather with computed indices, no host synchronization.

    Equals padding by reflection (border pixel not repeated), taking the window at ``(shift_y, shift_x)`` and flipping.

    Args:
        images: ``(B, C, H, W)`` of any dtype; dtype and memory format are kept.
        shift_y: int64 ``(B,)``, less than H in size: the `CropFlip.dy` of these images.
        shift_x: int64 ``(B,)``, less than W in size: their `CropFlip.dx`.
        flip: bool ``(B,)``.
    """
    batch_size, num_channels, height, width = images.shape
    columns = torch.arange(width, device=images.device)
    columns = torch.where(flip[:, None], width - 1 - columns, columns)  # (B, W)
    y = _reflect(torch.arange(height, device=images.device) + shift_y[:, None], height)  # (B, H)
    x = _reflect(columns + shift_x[:, None], width)  # (B, W)
    pixels = (y[:, :, None] * width + x[:, None, :]).flatten(1)  # (B, H*W)
    if images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous():
        flat = images.permute(0, 2, 3, 1).reshape(batch_size, height * width, num_channels)
        cropped = flat.gather(1, pixels[:, :, None].expand(-1, -1, num_channels))
        return cropped.view(batch_size, height, width, num_channels).permute(0, 3, 1, 2)
    cropped = images.flatten(2).gather(2, pixels[:, None, :].expand(-1, num_channels, -1))
    return cropped.view(images.shape)


def _reflect(position: torch.Tensor, size: int) -> torch.Tensor:
    """Fold positions beyond ``0 .. size - 1`` back, the border pixel being the mirror."""
    last = size - 1
    return last - (last - position.abs()).abs()
