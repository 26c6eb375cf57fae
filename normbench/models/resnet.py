"""torchvision's ResNet-18 with any norm, for 32x32 images.

He, Zhang, Ren & Sun 2015, "Deep Residual Learning for Image Recognition", arXiv 1512.03385. Its attributes keep
torchvision's names, `bn1` included, so that weights can be exchanged.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from normbench.layers.pooled_linear import PooledLinear
from normbench.models.residual import ScalarBias, branch_scale, conv2d, initialise, usable_factory
from normbench.norms import NormFactory, NormLike


class _Place(nn.Module):
    """Stands where torchvision asks for a norm, until its role and image size are known."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.num_channels = num_channels


class _ResNet(ResNet):  # type: ignore[misc]  # torchvision has no types
    """torchvision's, with pooling as a part of its last layer."""

    def _forward_impl(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        logits: Tensor = self.fc(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
        return logits


def resnet18(*, norm: NormLike, num_classes: int = 10, image_size: int = 32) -> ResNet:
    """Build torchvision's ResNet-18 with a CIFAR stem: a 3x3 convolution of stride 1 and no pooling.

    ``(N, 3, image_size, image_size)`` -> ``(N, num_classes)``. With bn 11,173,962 parameters.

    A norm that contains its activation takes the place of norm and ReLU in the stem and in the middle of each branch;
    at the end of a branch and on shortcuts it comes without its activation. The ReLU that follows each addition is the
    block's, not a norm's, and stays: a sum of branches is not a norm's output.
    """
    norm = usable_factory("resnet18", norm)
    network = _ResNet(BasicBlock, [2, 2, 2, 2], num_classes=num_classes, norm_layer=_Place)
    size = image_size
    network.conv1 = norm.conv2d(3, 64, 3, padding=1, bias=False)
    network.bn1 = _before_relu(norm, 64, size)
    network.maxpool = network.avgpool = nn.Identity()
    network.fc = _with_pooling(network.fc)
    branches = []
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        for position, block in enumerate(stage):
            size = -(-size // block.stride)
            _fill(block, norm, size)
            branches.append((block.conv1, block.conv2))
            if norm.replaces_activation:
                # torchvision uses one ReLU twice in a block; without the first, the second moves behind the block.
                block.relu = nn.Identity()
                stage[position] = nn.Sequential(block, nn.ReLU(inplace=True))
    if norm.replaces_activation:
        network.relu = nn.Identity()
    initialise(network, norm=norm, branches=branches, classifier=network.fc)
    return network


def _with_pooling(linear: nn.Linear) -> PooledLinear:
    pooled = PooledLinear(linear.in_features, linear.out_features, device="meta")  # draws no random numbers
    pooled.weight, pooled.bias = linear.weight, linear.bias
    return pooled


def _fill(block: BasicBlock, norm: NormFactory, size: int) -> None:
    """Put the norm's convolutions and layers into one block, whose output is `size` pixels wide."""
    channels = block.bn1.num_channels
    block.conv1 = _rebuild(block.conv1, norm)
    block.bn1 = _before_relu(norm, channels, size)
    block.conv2 = _rebuild(block.conv2, norm)
    block.bn2 = _end_of_branch(norm, channels, size)
    if block.downsample is not None:
        block.downsample = nn.Sequential(_rebuild(block.downsample[0], norm), norm.norm_only(channels, size=size))


def _before_relu(norm: NormFactory, num_channels: int, size: int) -> nn.Module:
    layer = norm(num_channels, size=size)
    return nn.Sequential(ScalarBias(), layer) if norm.residual_init == "fixup" else layer


def _end_of_branch(norm: NormFactory, num_channels: int, size: int) -> nn.Module:
    layer = norm.norm_only(num_channels, size=size)
    if norm.residual_init == "default":
        return layer
    scaled = nn.Sequential(layer, branch_scale(norm))
    # Fixup's bias before the ReLU behind the addition
    return scaled.append(ScalarBias()) if norm.residual_init == "fixup" else scaled


def _rebuild(conv: nn.Conv2d, norm: NormFactory) -> nn.Module:
    """Build the norm's convolution with the shape of `conv`."""
    kernel_size = conv.kernel_size[0]
    return conv2d(
        norm, conv.in_channels, conv.out_channels, kernel_size, stride=conv.stride[0], padding=kernel_size // 2
    )
