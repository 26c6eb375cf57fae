"""The networks' last layer against torch's operations: the same layer, whichever kernel runs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normbench import kernels
from normbench.layers.pooled_linear import PooledLinear
from normbench.models import build_model
from normbench.norms import make_norm


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[set[torch.dtype]]:
    """Stand in for the device's kernel, everywhere, and record the dtypes it was given."""
    given = []

    def pooled_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        given.append({x.dtype, weight.dtype, bias.dtype})
        return nn.functional.linear(x.mean((2, 3)), weight, bias)

    monkeypatch.setattr(kernels.pool_linear, "unsupported_device_reason", lambda _: None)
    monkeypatch.setattr(kernels, "pooled_linear", pooled_linear)
    return given


def draw(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(1)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last)


def pair() -> tuple[PooledLinear, nn.Sequential]:
    """Return the layer, and torch's layers with the same parameters."""
    torch.manual_seed(2)
    ours, theirs = PooledLinear(16, 10), nn.Linear(16, 10)
    theirs.load_state_dict(ours.state_dict())
    return ours, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), theirs)


def test_in_16_bits_it_takes_the_kernel_as_autocast_would(launches: list[set[torch.dtype]]) -> None:
    ours, theirs = pair()
    x = draw(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, expected = ours(x), theirs(x)
    assert launches == [{torch.bfloat16}]
    torch.testing.assert_close(y, expected, rtol=2**-7, atol=2**-8)
    y.float().sum().backward()
    assert ours.weight.grad is not None
    assert ours.bias.grad is not None
    assert ours.weight.grad.dtype == ours.bias.grad.dtype == torch.float32
    ours.bfloat16()(x)
    assert launches[1:] == [{torch.bfloat16}]


def test_all_else_is_torchs(monkeypatch: pytest.MonkeyPatch, launches: list[set[torch.dtype]]) -> None:
    ours, theirs = pair()
    x = draw()
    torch.testing.assert_close(ours(x), theirs(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ours(x), theirs(x), rtol=2**-7, atol=2**-8)
        ours(x.bfloat16().contiguous())
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        ours(x.bfloat16())
    assert not launches
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="dtype"):
        ours(x.bfloat16())  # mixed dtypes, without autocast: torch's own error


@pytest.mark.parametrize("model", ["norm_resnet", "resnet18", "preact_resnet18"])
def test_networks_end_with_the_kernel_and_keep_their_keys(
    model: str, monkeypatch: pytest.MonkeyPatch, launches: list[set[torch.dtype]]
) -> None:
    monkeypatch.setattr(kernels, "can_convolve_images", lambda *_: False)
    network = build_model(model, norm=make_norm("none")).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    name = "fc" if model == "resnet18" else "classifier"
    assert [key for key in network.state_dict() if key.startswith(name)] == [f"{name}.weight", f"{name}.bias"]
    images = torch.zeros(1, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        network.eval()(images)
    assert launches == [{torch.bfloat16}]


def test_parameters_and_keys_are_torchs() -> None:
    ours, theirs = pair()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs[2].state_dict().items()}
