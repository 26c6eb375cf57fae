"""Fixup and SkipInit: at the start every branch is silent, and after one step everything learns."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normbench.errors import ConfigError
from normbench.layers.hooks import learning_rate_factors
from normbench.models import build_model
from normbench.models.residual import ScalarBias, ScalarScale
from normbench.norms import WEIGHTS, make_norm

COMBINATIONS = [
    ("resnet18", "fixup"),
    ("resnet18", "skipinit"),
    ("preact_resnet18", "fixup"),
    ("preact_resnet18", "skipinit"),
    ("resnet9", "skipinit"),
]


def build(model: str, init: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(model, norm=make_norm("none", init=init))


@pytest.mark.parametrize("init", ["fixup", "skipinit"])
def test_preact_blocks_are_their_shortcut_at_first(init: str) -> None:
    network = build("preact_resnet18", init)
    x = torch.randn(2, 64, 32, 32)
    assert torch.equal(network.get_submodule("blocks.0")(x), x)
    shortcut = [
        module for module in network.get_submodule("blocks.2.shortcut").modules() if isinstance(module, nn.Conv2d)
    ]
    torch.testing.assert_close(network.get_submodule("blocks.2")(x), F.conv2d(F.relu(x), shortcut[0].weight, stride=2))


@pytest.mark.parametrize("init", ["fixup", "skipinit"])
def test_resnet18_blocks_are_their_rectified_shortcut_at_first(init: str) -> None:
    network = build("resnet18", init)
    x = torch.randn(2, 64, 32, 32)
    torch.testing.assert_close(network.get_submodule("layer1.0")(x), F.relu(x))


def test_resnet9_residuals_are_the_identity_under_skipinit() -> None:
    network = build("resnet9", "skipinit")
    x = torch.randn(2, 512, 4, 4)
    assert torch.equal(network.get_submodule("features.8")(x), x)


@pytest.mark.parametrize(("model", "init"), COMBINATIONS)
def test_gradient_reaches_every_parameter_within_three_steps(model: str, init: str) -> None:
    """The zeros of Fixup hold back what lies before them, one step for the classifier and one for a branch."""
    network = build(model, init)
    images, labels = torch.rand(4, 3, 32, 32), torch.tensor([0, 3, 5, 9])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    reached: set[str] = set()
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        reached |= {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        optimizer.step()
    assert reached == {name for name, _ in network.named_parameters()}


@pytest.mark.parametrize("model", ["resnet18", "preact_resnet18"])
def test_fixup_scales_the_first_convolution_of_each_of_eight_branches(model: str) -> None:
    """He's std sqrt(2 / fan_out) times 8 ** -1/2; the last convolution and the classifier are 0 (paper, section 3)."""
    network = build(model, "fixup")
    convs = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    first = [conv for name, conv in convs.items() if "conv1" in name.removeprefix("conv1")]
    last = [conv for name, conv in convs.items() if "conv2" in name]
    assert len(first) == len(last) == 8
    for conv in first:
        he_std = (2 / (conv.out_channels * 9)) ** 0.5
        assert conv.weight.std().item() == pytest.approx(he_std * 8**-0.5, rel=0.02)
    assert all(conv.weight.abs().sum() == 0 for conv in last)
    assert network(torch.rand(2, 3, 32, 32)).abs().sum() == 0


def test_fixup_counts_its_scalars() -> None:
    """In a preact net: a bias before each of 19 convolutions but the stem and each of 17 ReLUs; a scale per branch."""
    network = build("preact_resnet18", "fixup")
    assert sum(isinstance(module, ScalarBias) for module in network.modules()) == 19 + 17
    assert sum(isinstance(module, ScalarScale) for module in network.modules()) == 8


def test_only_fixups_scalars_learn_at_a_tenth_of_the_rate() -> None:
    network = build("preact_resnet18", "fixup")
    factors = learning_rate_factors(network)
    scalars = {name for name, parameter in network.named_parameters() if parameter.ndim == 0}
    assert len(scalars) == 19 + 17 + 8
    assert factors == dict.fromkeys(scalars, 0.1)
    assert set(learning_rate_factors(build("preact_resnet18", "skipinit")).values()) == {1.0}


@pytest.mark.parametrize("model", ["resnet9", "norm_resnet"])
def test_nets_that_cannot_use_fixup_say_so(model: str) -> None:
    with pytest.raises(ConfigError, match="preact_resnet18"):
        build_model(model, norm=make_norm("none", init="fixup"))


@pytest.mark.parametrize("weight", WEIGHTS)
def test_fixup_is_refused_where_weights_are_standardised(weight: str) -> None:
    with pytest.raises(ConfigError, match="undoes"):
        build_model("preact_resnet18", norm=make_norm(f"none+{weight}", init="fixup"))
