"""VGG-A for small images, the usual host of studies of smoothness with and without Batch Normalization.

Simonyan & Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image Recognition", arXiv 1409.1556, column
A of table 1. Santurkar et al. 2018, "How Does Batch Normalization Help Optimization?", arXiv 1805.11604, use VGG so.
"""

from __future__ import annotations

import torch
from torch import nn

from normbench.models.residual import initialise, usable_factory
from normbench.norms import NormLike

STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""Channels of the 3x3 convolutions between poolings."""
NO_BRANCHES = "it has no residual branches; preact_resnet18 and resnet18 have"


class VGGA(nn.Module):
    """Eight 3x3 convolutions with bias, norm and ReLU; 2x2 max pooling after each stage; three linear layers.

    ``(N, 3, image_size, image_size)`` -> ``(N, num_classes)``; what pooling leaves of larger images is averaged, and
    smaller ones are pooled as often as they can be. With bn 9,756,426 parameters. Its convolutions and norms are those
    of torchvision's vgg11_bn; the linear layers have 512 features for small images in place of 4,096, and no dropout.
    """

    def __init__(self, *, norm: NormLike, num_classes: int = 10, image_size: int = 32) -> None:
        norm = usable_factory("vgg_a", norm, reason_against={"fixup": NO_BRANCHES, "skipinit": NO_BRANCHES})
        super().__init__()
        layers: list[nn.Module] = []
        in_channels, size = 3, image_size
        for stage in STAGES:
            for channels in stage:
                layers += [norm.conv2d(in_channels, channels, 3, padding=1, bias=True)]
                layers += [norm.norm_act(channels, size=size)]
                in_channels = channels
            if size > 1:
                layers.append(nn.MaxPool2d(2))
                size //= 2
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(in_channels, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, num_classes)
        )
        initialise(self, norm=norm, branches=[], classifier=self.classifier[-1])  # type: ignore[arg-type]
        for module in self.features.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits, ``(N, num_classes)``."""
        logits: torch.Tensor = self.classifier(self.features(images).mean(dim=(2, 3)))  # of (N, 512, H/32, W/32)
        return logits
