"""ResNet-9, the small residual net of fast CIFAR-10 training (David Page's DAWNBench entry, 2018)."""

from __future__ import annotations

import torch
from torch import nn

from normbench.models.residual import branch_scale, conv2d, initialise, norm_act, usable_factory
from normbench.norms import NormFactory, NormLike

LOGIT_SCALE = 0.125
WHY_NOT_FIXUP = (
    "Fixup starts each residual branch at zero in its last convolution, and here a ReLU follows it, whose gradient at "
    "zero is zero, so that the branch would never learn. Use init='skipinit', or Fixup in preact_resnet18 or resnet18"
)


class Residual(nn.Module):
    """``x + branch(x)`` with a branch of two 3x3 convolutions, each followed by norm and activation."""

    def __init__(self, num_channels: int, *, size: int, norm: NormFactory) -> None:
        super().__init__()
        self.conv1 = conv2d(norm, num_channels, num_channels, 3, padding=1)
        self.norm1 = norm_act(norm, num_channels, size=size)
        self.conv2 = conv2d(norm, num_channels, num_channels, 3, padding=1)
        self.norm2 = norm_act(norm, num_channels, size=size)
        self.branch_scale = branch_scale(norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum; the shape of x is kept."""
        branch: torch.Tensor = self.branch_scale(self.norm2(self.conv2(self.norm1(self.conv1(x)))))
        return x + branch


class ResNet9(nn.Module):
    """Nine layers with weights: eight 3x3 convolutions without bias, each with norm and activation, and a linear layer.

    conv 64; conv 128, pool, residual of two convs; conv 256, pool; conv 512, pool, residual of two convs; pooling of
    all that is left, 4x4; a linear layer without bias, its result times 0.125. All pooling is by maximum, 2x2 but for
    the last. ``(N, 3, image_size, image_size)`` -> ``(N, num_classes)``. With bn 6,573,120 parameters.

    It differs from the original in its initialisation (He normal; the original had PyTorch's default, which lets an
    unnormalised signal fade) and in learning all norm scales and shifts.
    """

    def __init__(self, *, norm: NormLike, num_classes: int = 10, image_size: int = 32) -> None:
        norm = usable_factory("resnet9", norm, reason_against={"fixup": WHY_NOT_FIXUP})
        super().__init__()
        self.features = nn.Sequential(
            _conv_norm_act(3, 64, size=image_size, norm=norm),
            _conv_norm_act(64, 128, size=image_size, norm=norm),
            nn.MaxPool2d(2),
            Residual(128, size=image_size // 2, norm=norm),
            _conv_norm_act(128, 256, size=image_size // 2, norm=norm),
            nn.MaxPool2d(2),
            _conv_norm_act(256, 512, size=image_size // 4, norm=norm),
            nn.MaxPool2d(2),
            Residual(512, size=image_size // 8, norm=norm),
            nn.MaxPool2d(image_size // 8),
        )
        self.classifier = nn.Linear(512, num_classes, bias=False)
        initialise(self, norm=norm, branches=[], classifier=self.classifier)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits, ``(N, num_classes)``."""
        features = self.features(images).flatten(1)  # (N, 512, 1, 1) -> (N, 512)
        logits: torch.Tensor = self.classifier(features) * LOGIT_SCALE
        return logits


def _conv_norm_act(in_channels: int, out_channels: int, *, size: int, norm: NormFactory) -> nn.Sequential:
    return nn.Sequential(conv2d(norm, in_channels, out_channels, 3, padding=1), norm_act(norm, out_channels, size=size))
