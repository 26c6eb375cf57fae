"""The wide residual net 28-10: Zagoruyko & Komodakis 2016, "Wide Residual Networks", arXiv 1605.07146."""

from __future__ import annotations

import torch
from torch import nn

from normbench.layers.pooled_linear import PooledLinear
from normbench.models.preact_resnet import PreActBlock
from normbench.models.residual import initialise, norm_act, usable_factory
from normbench.norms import NormLike

STEM_CHANNELS = 16
CHANNELS_AND_STRIDES = ((160, 1), (320, 2), (640, 2))
BLOCKS_PER_GROUP = 4


class WideResNet28x10(nn.Module):
    """A 3x3 stem of 16 channels, three groups of four `PreActBlock`, norm and activation, mean, a linear layer.

    The groups have 160, 320 and 640 channels.

    ``(N, 3, image_size, image_size)`` -> ``(N, num_classes)``. With bn 36,479,194 parameters; without the dropout that
    the authors try.
    """

    def __init__(self, *, norm: NormLike, num_classes: int = 10, image_size: int = 32) -> None:
        norm = usable_factory("wrn28_10", norm)
        super().__init__()
        self.stem = norm.conv2d(3, STEM_CHANNELS, 3, padding=1, bias=False)
        blocks: list[PreActBlock] = []
        channels, size = STEM_CHANNELS, image_size
        for out_channels, first_stride in CHANNELS_AND_STRIDES:
            for stride in (first_stride, *(BLOCKS_PER_GROUP - 1) * (1,)):
                blocks.append(PreActBlock(channels, out_channels, stride, size=size, norm=norm))
                channels, size = out_channels, -(-size // stride)
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm_act(norm, channels, size=size)
        self.classifier = PooledLinear(channels, num_classes)
        branches = [(block.conv1, block.conv2) for block in blocks]
        initialise(self, norm=norm, branches=branches, classifier=self.classifier)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits, ``(N, num_classes)``."""
        logits: torch.Tensor = self.classifier(self.norm(self.blocks(self.stem(images))))  # of (N, 640, H/4, W/4)
        return logits
