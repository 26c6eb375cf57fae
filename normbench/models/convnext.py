"""A small ConvNeXt, the fair host of norms over the channels of a pixel and of Global Response Normalization.

Liu et al. 2022, "A ConvNet for the 2020s", arXiv 2201.03545: a block has one norm and one activation, and a convolution
between them.
"""

from __future__ import annotations

import torch
from torch import nn

from normbench.models.residual import branch_scale, usable_factory
from normbench.norms import NormFactory, NormLike

CHANNELS = (64, 128, 256)
BLOCKS_PER_STAGE = 2
EXPANSION = 4
WHY_NOT_FIXUP = (
    "Fixup scales the weights of 3x3 convolutions in branches that end in one; use init='skipinit', or Fixup in "
    "preact_resnet18 or resnet18"
)


class ConvNeXtBlock(nn.Module):
    """``x + branch(x)``: a 7x7 convolution of each channel, norm, 1x1 to four times the channels, GELU, 1x1 back."""

    def __init__(self, num_channels: int, *, size: int, norm: NormFactory) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(num_channels, num_channels, 7, padding=3, groups=num_channels)
        self.norm = norm.norm_only(num_channels, size=size)
        self.expand = norm.conv2d(num_channels, EXPANSION * num_channels, 1, bias=True)
        self.project = norm.conv2d(EXPANSION * num_channels, num_channels, 1, bias=True)
        self.branch_scale = branch_scale(norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum; the shape of x is kept."""
        branch = self.expand(self.norm(self.depthwise(x)))
        y: torch.Tensor = x + self.branch_scale(self.project(nn.functional.gelu(branch)))
        return y


class ConvNeXt(nn.Module):
    """A 2x2 stem of stride 2, three stages of two `ConvNeXtBlock` with 64, 128 and 256 channels, mean, norm, linear.

    Between stages are a norm and a 2x2 convolution of stride 2; one norm follows the stem, one the last stage.
    ``(N, 3, image_size, image_size)`` -> ``(N, num_classes)``. With ln2d 1,595,978 parameters. Weight methods (``+ws``)
    apply to all convolutions but those of each channel.

    It differs from the paper in its size, the last norm before the mean over the image and not behind it, and in having
    neither layer scale nor stochastic depth.
    """

    def __init__(self, *, norm: NormLike, num_classes: int = 10, image_size: int = 32) -> None:
        norm = usable_factory("convnext", norm, reason_against={"fixup": WHY_NOT_FIXUP})
        super().__init__()
        size = image_size // 2
        layers: list[nn.Module] = [norm.conv2d(3, CHANNELS[0], 2, stride=2, bias=True)]
        layers.append(norm.norm_only(CHANNELS[0], size=size))
        in_channels = CHANNELS[0]
        for position, channels in enumerate(CHANNELS):
            if position:
                layers.append(norm.norm_only(in_channels, size=size))
                layers.append(norm.conv2d(in_channels, channels, 2, stride=2, bias=True))
                in_channels, size = channels, size // 2
            layers += [ConvNeXtBlock(channels, size=size, norm=norm) for _ in range(BLOCKS_PER_STAGE)]
        layers.append(norm.norm_only(in_channels, size=size))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(in_channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits, ``(N, num_classes)``."""
        logits: torch.Tensor = self.classifier(self.features(images).mean(dim=(2, 3)))  # of (N, 256, H/8, W/8)
        return logits
