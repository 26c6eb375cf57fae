"""The style-transfer network: an image in, the same image in another style out.

The architecture is that of Johnson, Alahi & Fei-Fei 2016, "Perceptual Losses for Real-Time Style Transfer and
Super-Resolution", arXiv 1603.08155; that its norm decides the quality is Ulyanov, Vedaldi & Lempitsky 2016, "Instance
Normalization: The Missing Ingredient for Fast Stylization", arXiv 1607.08022.
"""

from __future__ import annotations

import torch
from torch import nn

from normbench.models.residual import usable_factory
from normbench.norms import NormFactory, NormLike

NUM_RESIDUAL_BLOCKS = 5
DOWNSAMPLING = 4
"""Height and width of an image must be multiples of this."""
WHY_NOT = "its convolutions have biases and their own initialisation; resnet18 and preact_resnet18 have that start"


class StyleResidual(nn.Module):
    """``x + branch(x)``: two 3x3 convolutions with norm, ReLU behind the first only; the shape is kept."""

    def __init__(self, num_channels: int, *, norm: NormFactory) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            norm.conv2d(num_channels, num_channels, 3, padding=1, bias=True),
            norm.norm_act(num_channels),
            norm.conv2d(num_channels, num_channels, 3, padding=1, bias=True),
            norm.norm_only(num_channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum."""
        y: torch.Tensor = x + self.branch(x)
        return y


class StyleTransferNet(nn.Module):
    """Two strided convolutions down, five `StyleResidual` at 128 channels, two transposed convolutions up, tanh.

    ``(N, 3, H, W)`` -> ``(N, 3, H, W)`` in [-1, 1], H and W multiples of 4. All convolutions have a bias and, but for
    the last, a norm. With in (not affine) 1,676,035 parameters. Weight methods (``+ws``) apply to the convolutions that
    are not transposed and not the last.

    Raises:
        ConfigError: the norm has parameters per pixel, or cannot be built for 32, 64 or 128 channels.
    """

    def __init__(self, norm: NormLike) -> None:
        norm = usable_factory("stylenet", norm, reason_against={"fixup": WHY_NOT, "skipinit": WHY_NOT})
        super().__init__()
        self.down = nn.Sequential(
            norm.conv2d(3, 32, 9, padding=4, bias=True),
            norm.norm_act(32),
            norm.conv2d(32, 64, 3, stride=2, padding=1, bias=True),
            norm.norm_act(64),
            norm.conv2d(64, 128, 3, stride=2, padding=1, bias=True),
            norm.norm_act(128),
        )
        self.residuals = nn.Sequential(*(StyleResidual(128, norm=norm) for _ in range(NUM_RESIDUAL_BLOCKS)))
        self.up = nn.Sequential(
            nn.ConvTranspose2d(128, 64, 3, stride=2, padding=1, output_padding=1),
            norm.norm_act(64),
            nn.ConvTranspose2d(64, 32, 3, stride=2, padding=1, output_padding=1),
            norm.norm_act(32),
            nn.Conv2d(32, 3, 9, padding=4),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the stylized images; raises `ValueError` where H or W is not a multiple of 4."""
        if images.shape[2] % DOWNSAMPLING or images.shape[3] % DOWNSAMPLING:
            raise ValueError(f"stylenet: height and width must be multiples of 4, not {tuple(images.shape[2:])}")
        return torch.tanh(self.up(self.residuals(self.down(images))))
