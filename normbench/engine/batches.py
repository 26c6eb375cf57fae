"""Images on the device: no data loader, no copy and no synchronization a step."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from normbench.data.randomness import generator

EVALUATION_BATCH_SIZE = 500
"""Images of a forward pass in evaluation. Fixed, because what norms with batch statistics there say depends on it."""


class DeviceImages:
    """One split of a data set, resident on a device as uint8.

    Args:
        images: uint8, ``(N, H, W, C)``.
        labels: integers, ``(N,)``.
        device: where they are kept.
        channels_last: lay out `images`, and with them every batch, in ``torch.channels_last`` memory format.
    """

    images: torch.Tensor
    """uint8, ``(N, C, H, W)``."""
    labels: torch.Tensor
    """int64, ``(N,)``."""

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.integer[Any]],
        device: torch.device | str,
        *,
        channels_last: bool = False,
    ) -> None:
        self._is_channels_last = channels_last
        stored = torch.from_numpy(images).to(device)
        self._stored = stored if channels_last else stored.permute(0, 3, 1, 2).contiguous()
        self.images = self._as_nchw(self._stored)
        self.labels = torch.from_numpy(labels.astype(np.int64)).to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the uint8 images ``(B, C, H, W)`` and labels ``(B,)`` at `indices`, int64 ``(B,)`` on the device."""
        return self._as_nchw(self._stored.index_select(0, indices)), self.labels.index_select(0, indices)

    def first(self, count: int) -> DeviceImages:
        """Return the first `count` images; they share memory with these."""
        part = copy(self)
        part._stored, part.labels = self._stored[:count], self.labels[:count]
        part.images = part._as_nchw(part._stored)
        return part

    def like(self, images: torch.Tensor) -> DeviceImages:
        """Return other images, uint8 ``(N, C, H, W)``, with the labels of these."""
        part = copy(self)
        part._stored = images.permute(0, 2, 3, 1).contiguous() if self._is_channels_last else images.contiguous()
        part.images = part._as_nchw(part._stored)
        return part

    def _as_nchw(self, stored: torch.Tensor) -> torch.Tensor:
        # index_select forgets channels_last, so that such images are gathered as (N, H, W, C) and viewed as NCHW after.
        return stored.permute(0, 3, 1, 2) if self._is_channels_last else stored


def normalize(images_uint8: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Map 0..255 to -1..1 as the tutorial does: ``(x / 255 - 0.5) / 0.5``, computed in float32, memory format kept."""
    return images_uint8.to(torch.float32).div_(255).sub_(0.5).div_(0.5).to(dtype)


def epoch_order(num_images: int, seed: int, epoch: int) -> torch.Tensor:
    """Return the order in which an epoch visits the images: int64 on the CPU, the same for every norm and device."""
    return torch.randperm(num_images, generator=generator(seed, "order", epoch))
