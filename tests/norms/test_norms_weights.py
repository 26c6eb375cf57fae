"""Convolutions with standardized weights."""

from __future__ import annotations

import pytest
import torch
from norm_cases import images, relative_error
from norm_reference import (
    scaled_weight_standardization,
    spectral_normalization,
    weight_normalization,
    weight_standardization,
)
from torch import nn
from torch.nn import functional as F

from normbench.errors import ConfigError
from normbench.models import build_model
from normbench.norms import NORMS, WEIGHTS, make_norm
from normbench.norms.weight_standardization import RELU_GAIN

STANDARDIZING = ("ws", "sws")


def expected_weight(key: str, conv: nn.Module) -> torch.Tensor:
    weight = conv.weight.detach().numpy()
    if key in ("sws", "wn"):
        formula = scaled_weight_standardization if key == "sws" else weight_normalization
        return torch.from_numpy(formula(weight, conv.gain.detach().numpy()))
    return torch.from_numpy((spectral_normalization if key == "spectral" else weight_standardization)(weight))


@pytest.mark.parametrize("key", WEIGHTS)
def test_the_weight_follows_the_formula(key: str) -> None:
    conv = make_norm(f"gn+{key}").conv2d(3, 5, 3, stride=2, padding=1, bias=True).double()
    if key in ("sws", "wn"):
        nn.init.uniform_(conv.gain, 0.5, 1.5)
    x = images(2, 3, 6, 6)
    for _ in range(300 if key == "spectral" else 0):
        conv(x)  # one step of power iteration each
    reference = F.conv2d(x, expected_weight(key, conv), conv.bias, stride=2, padding=1)
    tolerance = 1e-9 if key == "sws" else 1e-10  # sws: its gain is a numeric integral
    assert relative_error(conv(x), reference) <= tolerance


def test_weight_normalization_starts_as_the_plain_convolution() -> None:
    conv = make_norm("none+wn").conv2d(3, 5, 3)
    x = images(2, 3, 6, 6, dtype=torch.float32)
    assert relative_error(conv(x), F.conv2d(x, conv.weight)) <= 1e-6
    network = build_model("resnet9", norm=make_norm("bn+wn"))  # which draws its weights anew
    gains = [(m.gain, m.weight) for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert gains
    assert all(relative_error(gain, weight.flatten(1).norm(dim=1)) <= 1e-6 for gain, weight in gains)


def test_spectral_normalization_starts_near_the_largest_singular_value_and_leaves_it_alone_in_evaluation() -> None:
    network = build_model("resnet9", norm=make_norm("bn+spectral"))
    for conv in (m for m in network.modules() if isinstance(m, nn.Conv2d)):
        largest = torch.linalg.matrix_norm(conv.effective_weight().flatten(1), 2)
        assert 1 <= largest.item() < 1.1
    before = network.eval().state_dict()["features.0.0.u"].clone()
    network(images(2, 3, 32, 32, dtype=torch.float32))
    assert torch.equal(network.state_dict()["features.0.0.u"], before)


@pytest.mark.parametrize("key", WEIGHTS)
def test_gradients(key: str) -> None:
    conv = make_norm(f"bn+{key}").conv2d(2, 3, 2).double().eval()
    names = [name for name, _ in conv.named_parameters()]
    parameters = [parameter.detach().clone().requires_grad_() for parameter in conv.parameters()]

    def function(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = torch.func.functional_call(conv, dict(zip(names, values, strict=True)), (x,))
        return output

    assert torch.autograd.gradcheck(function, (images(2, 2, 3, 3).requires_grad_(), *parameters))


@pytest.mark.parametrize("key", WEIGHTS)
def test_scale_and_shift_of_a_filter_do_not_matter(key: str) -> None:
    conv = make_norm(f"gn+{key}").conv2d(3, 4, 3).double()
    x = images(2, 3, 6, 6)
    before = conv.eval()(x)
    with torch.no_grad():
        conv.weight.mul_(10)
        if key in STANDARDIZING:
            conv.weight.add_(3)
    assert relative_error(conv(x), before) <= 1e-4  # the eps of ws alone


@pytest.mark.parametrize("key", WEIGHTS)
def test_a_filter_of_zeros_has_finite_gradients(key: str) -> None:
    conv = make_norm(f"gn+{key}").conv2d(3, 4, 3)
    nn.init.zeros_(conv.weight)
    conv(images(2, 3, 6, 6, dtype=torch.float32)).sum().backward()
    assert conv.weight.grad.isfinite().all()


def test_scaled_weight_standardization_keeps_the_variance_of_a_rectified_signal() -> None:
    torch.manual_seed(0)
    conv = make_norm("none+sws").conv2d(64, 64, 3)
    x = torch.relu(torch.randn(8, 64, 12, 12))
    assert conv(x).var().item() == pytest.approx(1, rel=0.05)
    assert pytest.approx(1.7139588594, rel=1e-3) == RELU_GAIN  # the NFNet code's constant


@pytest.mark.parametrize("key", WEIGHTS)
@pytest.mark.parametrize("name", NORMS)
def test_every_norm_composes(name: str, key: str) -> None:
    factory = make_norm(f"{name}+{key}")
    net = nn.Sequential(factory.conv2d(3, 8, 3, padding=1), factory.norm_act(8, size=6))
    x = images(3, 3, 6, 6, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())
    assert isinstance(net[0], nn.Conv2d)


@pytest.mark.parametrize("key", STANDARDIZING)
def test_a_filter_of_one_weight_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="single weight"):
        make_norm(f"gn+{key}").conv2d(1, 4, 1)
