"""NormResNet, the network of the tutorial that NormBench grew from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from normbench.layers.conv_stack import ConvStack
from normbench.layers.pooled_linear import PooledLinear
from normbench.models.residual import usable_factory
from normbench.norms import NormLike

CHANNELS = (64, 128, 256, 512)
STRIDES = (1, 2, 2, 2)
NO_BRANCHES = "it has no residual branches; preact_resnet18 and resnet18 have"


class NormResNet(nn.Module):
    """Four 3x3 convolutions without bias, each followed by norm and ReLU; global average pooling; a linear layer.

    ``(N, 3, image_size, image_size)`` -> ``(N, num_classes)``; only norms with an affine per position need the size.
    With bn 1,557,066 parameters. (The name is the tutorial's; it has no residual connections.)
    """

    def __init__(
        self, *, norm: NormLike, num_classes: int = 10, image_size: int = 32, channels: Sequence[int] = CHANNELS
    ) -> None:
        norm = usable_factory("norm_resnet", norm, reason_against={"fixup": NO_BRANCHES, "skipinit": NO_BRANCHES})
        super().__init__()
        blocks: list[nn.Module] = []
        in_channels, size = 3, image_size
        for out_channels, stride in zip(channels, STRIDES, strict=True):
            size = -(-size // stride)
            blocks += [
                norm.conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
                norm.norm_act(out_channels, size=size),
            ]
            in_channels = out_channels
        self.features = ConvStack(*blocks)
        self.classifier = PooledLinear(in_channels, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits, ``(N, num_classes)``."""
        logits: torch.Tensor = self.classifier(self.features(images))  # of (N, 512, H/8, W/8)
        return logits


def small_norm_resnet(*, norm: NormLike, num_classes: int = 10, image_size: int = 32) -> NormResNet:
    """Build `NormResNet` with a quarter of its channels: 98,970 parameters with bn; for demos on a CPU."""
    channels = [count // 4 for count in CHANNELS]
    return NormResNet(norm=norm, num_classes=num_classes, image_size=image_size, channels=channels)
