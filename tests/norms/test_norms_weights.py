"""Convolutions with standardized weights."""

from __future__ import annotations

import pytest
import torch
from norm_cases import images, relative_error
from norm_reference import scaled_weight_standardization, weight_standardization
from torch import nn
from torch.nn import functional as F

from normbench.errors import ConfigError
from normbench.norms import NORMS, WEIGHTS, make_norm
from normbench.norms.weight_standardization import RELU_GAIN


@pytest.mark.parametrize("key", WEIGHTS)
def test_the_weight_follows_the_formula(key: str) -> None:
    conv = make_norm(f"gn+{key}").conv2d(3, 5, 3, stride=2, padding=1, bias=True).double()
    if key == "sws":
        nn.init.uniform_(conv.gain, 0.5, 1.5)
        expected = scaled_weight_standardization(conv.weight.detach().numpy(), conv.gain.detach().numpy())
    else:
        expected = weight_standardization(conv.weight.detach().numpy())
    x = images(2, 3, 6, 6)
    reference = F.conv2d(x, torch.from_numpy(expected), conv.bias, stride=2, padding=1)
    assert relative_error(conv(x), reference) <= (
        1e-9 if key == "sws" else 1e-10
    )  # sws: its gain is a numeric integral


@pytest.mark.parametrize("key", WEIGHTS)
def test_gradients(key: str) -> None:
    conv = make_norm(f"bn+{key}").conv2d(2, 3, 2).double()
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
    before = conv(x)
    with torch.no_grad():
        conv.weight.mul_(10).add_(3)
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


@pytest.mark.parametrize("key", WEIGHTS)
def test_a_filter_of_one_weight_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="single weight"):
        make_norm(f"gn+{key}").conv2d(1, 4, 1)
