"""resnet18 is torchvision's, preact_resnet18 is He et al.'s, checked against nets written another way."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from normbench.models import build_model
from normbench.norms import NORMS, make_norm

NORM_ACTS = [name for name, norm in NORMS.items() if norm.replaces_activation]


def test_resnet18_computes_what_torchvision_computes() -> None:
    torch.manual_seed(0)
    ours = build_model("resnet18", norm=make_norm("bn"))
    theirs = torchvision.models.resnet18(num_classes=10)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    # The same tensors in the same order; ours are one level deeper where a norm is held with its activation.
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images))
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


@pytest.mark.parametrize("norm", NORM_ACTS)
def test_resnet18_block_with_a_norm_act_applies_the_formula(norm: str) -> None:
    """relu(norm_only(conv(norm_act(conv(x)))) + shortcut), with nothing doubled or lost."""
    torch.manual_seed(0)
    network = build_model("resnet18", norm=make_norm(norm))
    x = torch.randn(2, 64, 32, 32)
    wrapped = network.get_submodule("layer2.0")
    block = wrapped.get_submodule("0")
    branch = block.bn2(block.conv2(block.bn1(block.conv1(x))))
    torch.testing.assert_close(wrapped(x), F.relu(branch + block.downsample(x)))


@pytest.mark.parametrize("norm", ["bn", "gn", "none", *NORM_ACTS])
@pytest.mark.parametrize("position", [1, 2])
def test_preact_block_applies_the_formula(norm: str, position: int) -> None:
    """Block 1 has an identity shortcut, block 2 a convolution on the activated input."""
    torch.manual_seed(0)
    network = build_model("preact_resnet18", norm=make_norm(norm))
    block = network.get_submodule(f"blocks.{position}")
    x = torch.randn(2, 64, 32, 32)
    expected_input = x.clone()
    activated = block.norm1(x.clone())
    branch = block.conv2(block.norm2(block.conv1(activated)))
    shortcut = x.clone() if position == 1 else block.shortcut(activated)
    torch.testing.assert_close(block(x), branch + shortcut)
    assert torch.equal(x, expected_input), "the block overwrote its input"


def test_resnet9_is_the_dawnbench_graph() -> None:
    """Written out from the graph, with the weights in order of use."""
    torch.manual_seed(0)
    network = build_model("resnet9", norm=make_norm("in"))
    weights = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]
    images = torch.rand(2, 3, 32, 32)

    def conv(x: torch.Tensor) -> torch.Tensor:
        return F.relu(F.instance_norm(F.conv2d(x, weights.pop(0), padding=1)))

    x = F.max_pool2d(conv(conv(images)), 2)
    x = x + conv(conv(x))
    x = F.max_pool2d(conv(x), 2)
    x = F.max_pool2d(conv(x), 2)
    x = x + conv(conv(x))
    expected = F.linear(F.max_pool2d(x, 4).flatten(1), network.classifier.weight) / 8
    torch.testing.assert_close(network(images), expected)
    assert not weights
