"""The pre-activation ResNet-18 for 32x32 images, where every norm is followed by an activation.

He, Zhang, Ren & Sun 2016, "Identity Mappings in Deep Residual Networks", arXiv 1603.05027. It is the fair host of norms
that contain their activation (FRN, EvoNorm): none of its norms has to go without one.
"""

from __future__ import annotations

import torch
from torch import nn

from normbench.layers.pooled_linear import PooledLinear
from normbench.models.residual import branch_scale, conv2d, initialise, norm_act, usable_factory
from normbench.norms import NormFactory, NormLike

STEM_CHANNELS = 64
BLOCK_CHANNELS_AND_STRIDES = ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1))


class PreActBlock(nn.Module):
    """norm, activation, 3x3 convolution, twice, added to the input; ``(N, C, H, W)`` -> ``(N, C', H', W')``.

    Where the shape changes, the shortcut is a 1x1 convolution of the first activation, without a norm of its own.
    `size` is the height and width of the block's input.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, size: int, norm: NormFactory) -> None:
        super().__init__()
        self.norm1 = norm_act(norm, in_channels, size=size)
        self.conv1 = conv2d(norm, in_channels, out_channels, 3, stride=stride, padding=1)
        self.norm2 = norm_act(norm, out_channels, size=-(-size // stride))
        self.conv2 = conv2d(norm, out_channels, out_channels, 3, padding=1)
        self.branch_scale = branch_scale(norm)
        same_shape = stride == 1 and in_channels == out_channels
        self.shortcut = None if same_shape else conv2d(norm, in_channels, out_channels, 1, stride=stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of shortcut and branch."""
        activated = self.norm1(x)
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        branch: torch.Tensor = self.branch_scale(self.conv2(self.norm2(self.conv1(activated))))
        return shortcut + branch


class PreActResNet18(nn.Module):
    """A 3x3 stem, eight `PreActBlock`, norm and activation, mean over the image, a linear layer.

    ``(N, 3, image_size, image_size)`` -> ``(N, num_classes)``. With bn 11,172,170 parameters.
    """

    def __init__(self, *, norm: NormLike, num_classes: int = 10, image_size: int = 32) -> None:
        norm = usable_factory("preact_resnet18", norm)
        super().__init__()
        self.stem = norm.conv2d(3, STEM_CHANNELS, 3, padding=1, bias=False)
        blocks: list[PreActBlock] = []
        channels, size = STEM_CHANNELS, image_size
        for out_channels, stride in BLOCK_CHANNELS_AND_STRIDES:
            blocks.append(PreActBlock(channels, out_channels, stride, size=size, norm=norm))
            channels, size = out_channels, -(-size // stride)
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm_act(norm, channels, size=size)
        self.classifier = PooledLinear(channels, num_classes)
        branches = [(block.conv1, block.conv2) for block in blocks]
        initialise(self, norm=norm, branches=branches, classifier=self.classifier)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits, ``(N, num_classes)``."""
        features = self.norm(self.blocks(self.stem(images)))  # (N, 512, H/8, W/8)
        logits: torch.Tensor = self.classifier(features)
        return logits
