"""A fixed first convolution that whitens patches of the training images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from normbench import kernels
from normbench.layers.precision import kernel_dtype

EPS = 5e-4
"""Added to the variances, in units of the mean variance of a pixel: directions of less are not blown up to noise."""

_IMAGES_AT_ONCE = 250


class Whitening(nn.Module):
    """A convolution, without padding, whose filters are whitened principal directions of patches and their negatives.

    ``(N, C, H, W)`` -> ``(N, 2 C s^2, H - s + 1, W - s + 1)`` for patches of s x s. The filters come from the training
    images (`fit`) and are not trained; the biases are. Such a layer begins the networks of airbench (Jordan 2024,
    arXiv 2404.00498).
    """

    weight: Tensor

    def __init__(self, in_channels: int, size: int = 2) -> None:
        super().__init__()
        self._size = size
        num_directions = in_channels * size**2
        self.register_buffer("weight", self._filters(torch.eye(num_directions), in_channels))
        self.bias = nn.Parameter(torch.zeros(2 * num_directions))

    def forward(self, images: Tensor) -> Tensor:
        """Return how much of each direction is at each position, in both signs."""
        return functional.conv2d(images, self.weight, self.bias)

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Take the directions of all patches of `images`, ``(N, C, H, W)``; the same images give the same filters."""
        size, channels = self._size, images.shape[1]
        products = torch.zeros(channels * size**2, channels * size**2, dtype=torch.float64)
        for part in images.cpu().double().split(_IMAGES_AT_ONCE):
            patches = part.unfold(2, size, 1).unfold(3, size, 1)  # (N, C, H', W', s, s)
            rows = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels * size**2)
            products += rows.T @ rows
        num_patches = len(images) * (images.shape[2] - size + 1) * (images.shape[3] - size + 1)
        variances, directions = torch.linalg.eigh(products / num_patches)
        floor = EPS * variances.mean()
        self.weight.copy_(self._filters((directions / (variances + floor).sqrt()).T, channels))

    def _filters(self, directions: Tensor, channels: int) -> Tensor:
        """Return a filter for each row of `directions`, and one for its negative."""
        return torch.cat([directions, -directions]).view(-1, channels, self._size, self._size)


class WhiteningGelu(Whitening):
    """`Whitening` with a GELU after it: one kernel of our own on a GPU, in 16 bits."""

    def has_kernel(self, images: Tensor, dtype: torch.dtype) -> bool:
        """Return whether the kernel computes this layer on `images`, for an output in `dtype`."""
        return kernels.can_convolve_patches_gelu(images, self.weight, dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Return the GELU of how much of each direction is at each position, in both signs."""
        dtype = kernel_dtype(images, self.weight)
        if dtype is not None and self.has_kernel(images, dtype):
            return kernels.convolve_patches_gelu(images, self.weight, self.bias, dtype)
        return functional.gelu(super().forward(images))
