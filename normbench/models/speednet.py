"""SpeedNet, a small wide net for training in seconds, after airbench94 (Jordan 2024, arXiv 2404.00498)."""

from __future__ import annotations

import torch
from torch import nn

from normbench.layers.max_pool2d import MaxPool2d
from normbench.layers.whitening import WhiteningGelu
from normbench.models.residual import usable_factory
from normbench.norms import NormFactory, NormLike

WIDTHS = (64, 256, 256)
LOGIT_SCALE = 1 / 9
_NO_BRANCHES = "it has no residual branches"


class SpeedNet(nn.Module):
    """A whitening 2x2 convolution, GELU, and six 3x3 convolutions in three blocks, each of which halves the image.

    A block is conv, 2x2 pooling, norm, GELU, conv, norm, GELU; its widths are 64, 256 and 256. What is left, 3x3, is
    pooled by maximum; a linear layer without bias follows, its result over 9. A norm that contains an activation has
    that one in place of GELU. Convolutions start as the identity where they can (Dirac).
    ``(N, 3, image_size, image_size)`` -> ``(N, num_classes)``.

    It differs from airbench94 in that norms keep all that they learn, at the rate of the weights: there BN has no
    scale, and its shift learns 64 times as fast, which GN does not bear (docs/log/performance.md); `scale_rate` and
    `shift_rate` of the training settings do the same.
    """

    def __init__(self, *, norm: NormLike, num_classes: int = 10, image_size: int = 32) -> None:
        norm = usable_factory("speednet", norm, reason_against={"fixup": _NO_BRANCHES, "skipinit": _NO_BRANCHES})
        super().__init__()
        self.whitening = WhiteningGelu(3)
        layers: list[nn.Module] = []
        channels, size = 2 * 3 * 2**2, image_size - 1
        for width in WIDTHS:
            layers.append(_conv(norm, channels, width))
            if size > 1:  # images of 8x8 come to one pixel before the last block
                size //= 2
                layers.append(MaxPool2d())
            layers.append(norm.norm_act(width, size=size, activation="gelu"))
            layers += [_conv(norm, width, width), norm.norm_act(width, size=size, activation="gelu")]
            channels = width
        self.features = nn.Sequential(*layers, nn.MaxPool2d(size))
        self.classifier = nn.Linear(channels, num_classes, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits, ``(N, num_classes)``."""
        features = self.features(self.whitening(images)).flatten(1)
        logits: torch.Tensor = self.classifier(features) * LOGIT_SCALE
        return logits


def _conv(norm: NormFactory, in_channels: int, out_channels: int) -> nn.Module:
    """Build a 3x3 convolution of which the first filters hand their channel on."""
    conv = norm.conv2d(in_channels, out_channels, 3, padding=1)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[:in_channels])
    if adopt := getattr(conv, "adopt_weight", None):
        adopt()
    return conv
