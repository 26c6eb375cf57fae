"""A net and images on which a training step takes a millisecond."""

import numpy as np
import torch
from torch import nn


class TinyNet(nn.Module):
    """A strided convolution, a norm, ReLU, mean over pixels, a linear layer."""

    def __init__(self, norm: nn.Module | None = None, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(3, 8, 4, stride=4)
            self.norm = nn.BatchNorm2d(8) if norm is None else norm
            self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


def draw_images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, count)
