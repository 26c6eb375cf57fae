"""What a network says of an image on average over views of it: mirrored, or shifted by a pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Views(nn.Module):
    """The mean of the logits of `model` over views of each image, ``(N, C, H, W)`` -> ``(N, num_classes)``.

    - 2 views: the image and its mirror image, left to right;
    - 6 views: also both of them shifted by a pixel up and to the left, and down and to the right, with a reflected
      border. The two that are not shifted weigh as much as the four that are (Jordan 2024, arXiv 2404.00498).
    """

    def __init__(self, model: nn.Module, num_views: int) -> None:
        super().__init__()
        self.model, self.num_views = model, num_views
        self.train(model.training)

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean of the logits, in float32."""
        logits = self._mirrored(images)
        if self.num_views == 2:
            return logits
        height, width = images.shape[2:]
        padded = functional.pad(images, (1, 1, 1, 1), mode="reflect")
        shifted = [padded[:, :, at : at + height, at : at + width] for at in (0, 2)]
        return (logits + (self._mirrored(shifted[0]) + self._mirrored(shifted[1])) / 2) / 2

    def _mirrored(self, images: Tensor) -> Tensor:
        views = (images, images.flip(-1))
        logits = [self.model(view.contiguous(memory_format=torch.channels_last)).float() for view in views]
        mean: Tensor = (logits[0] + logits[1]) / 2
        return mean
