"""Weights of all layers standardized at once, and their gradients, against each layer's own formula in float64."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

from normbench import make_norm
from normbench.engine import standardized_weights as module
from normbench.engine.standardized_weights import StandardizedWeights, standardized_weights
from normbench.norms.weight_standardization import StandardizedConv2d

LAYERS = {
    "27 weights": (3, 6, 3, 1),
    "72 weights": (8, 5, 3, 1),
    "2 weights": (2, 3, 1, 1),
    "160 weights": (40, 4, 2, 1),
}
"""Input and output channels, kernel and stride of the layers that are standardized together."""
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
METHODS = pytest.mark.parametrize("method", ["ws", "sws"])
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@pytest.fixture(autouse=True)
def _interpreted_on_poisoned_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def build(method: str, device: str, *, channels_last: bool = True) -> nn.ModuleDict:
    """Return layers with filters of all kinds: far from 0, tiny, and without any deviation."""
    torch.manual_seed(0)
    conv2d = make_norm(f"gn+{method}").conv2d
    layers = nn.ModuleDict(
        {
            name: conv2d(inputs, outputs, kernel, stride=stride)
            for name, (inputs, outputs, kernel, stride) in LAYERS.items()
        }
    )
    with torch.no_grad():
        for layer in layers.values():
            layer.weight += 3.0
            layer.weight[1] *= 1e-4
            layer.weight[2] = 0.5
            if method == "sws":
                layer.gain.uniform_(-1.0, 1.5)
                layer.gain[0] = 0.0
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return layers.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]


def gradients_of(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.empty_like(leaf).copy_(torch.randn(leaf.shape, generator=generator))
        for name, leaf in leaves.items()
    }


def run(layers: nn.ModuleDict, dtype: torch.dtype) -> tuple[StandardizedWeights, dict[str, Tensor]]:
    (weights,) = standardized_weights(layers, dtype)
    weights.compute()
    gradients = gradients_of(weights.leaves)
    for name, leaf in weights.leaves.items():
        leaf.grad = gradients[name]
    weights.backward()
    return weights, gradients


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual.double().cpu() - expected).norm() / expected.norm()).item()


@DEVICES
@pytest.mark.parametrize("channels_last", [True, False], ids=["channels_last", "contiguous"])
@DTYPES
@METHODS
def test_weights_and_gradients_match_the_formula(
    method: str, dtype: torch.dtype, channels_last: bool, device: str
) -> None:
    layers = build(method, device, channels_last=channels_last)
    weights, gradients = run(layers, dtype)
    assert list(weights.leaves) == [f"{name}.standardized" for name in LAYERS]
    errors = {}
    for name, layer in layers.items():
        exact = copy.deepcopy(layer).cpu().double()
        leaf = weights.leaves[f"{name}.standardized"]
        assert leaf.dtype == dtype
        assert leaf.stride() == layer.weight.stride()
        expected = exact.standardized_weight()
        expected.backward(gradients[f"{name}.standardized"].cpu().double())
        errors[name] = relative_error(leaf.detach(), expected.detach())
        for parameter in dict(exact.named_parameters()).keys() - {"bias"}:
            actual = layer.get_parameter(parameter).grad
            errors[name, parameter] = relative_error(actual, exact.get_parameter(parameter).grad)
    assert all(error < TOLERANCE[dtype] for error in errors.values()), errors


@DEVICES
@METHODS
def test_shares_of_a_gradient_are_summed(method: str, device: str) -> None:
    """As a convolution's kernel leaves them, in a multiple of 16 elements a filter."""
    layers = nn.ModuleDict({"convolution": make_norm(f"gn+{method}").conv2d(16, 5, 3)})
    layers = layers.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    (weights,) = standardized_weights(layers, torch.bfloat16)
    (leaf,) = weights.leaves.values()
    shares = torch.randn(6, 5, 3, 3, 16, device=device)
    results = []
    for summed in (False, True):
        weights.compute()
        if summed:
            leaf.grad = torch.empty_like(leaf).copy_(shares.sum(0).permute(0, 3, 1, 2))
        else:
            leaf.gradient_shares.add(shares)
        weights.backward()
        results.append(layers["convolution"].weight.grad.clone())
    assert (results[0] - results[1]).norm() < 1e-2 * results[1].norm()  # the sum is rounded to bf16
    assert results[0].any()


@DEVICES
@METHODS
def test_they_are_the_same_in_every_run(method: str, device: str) -> None:
    results = []
    for _ in range(2):
        layers = build(method, device)
        weights, _ = run(layers, torch.bfloat16)
        results.append([*weights.leaves.values(), *(p.grad for p in layers.parameters() if p.grad is not None)])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


@DEVICES
def test_a_weight_that_nothing_used_has_a_gradient_of_zeros(device: str) -> None:
    layers = build("sws", device)
    (weights,) = standardized_weights(layers, torch.float32)
    weights.compute()
    weights.backward()
    parameters = [layer.weight for layer in layers.values()] + [layer.gain for layer in layers.values()]
    assert not any(parameter.grad.any() for parameter in parameters)


def test_a_layer_convolves_with_the_weight_put_in_place_of_its_own() -> None:
    layer = build("ws", "cpu")["72 weights"]
    x, weight = torch.randn(2, 8, 5, 5), torch.randn_like(layer.weight)
    expected = nn.functional.conv2d(x, weight, layer.bias)
    torch.testing.assert_close(functional_call(layer, {"standardized": weight}, (x,)), expected)
    assert layer.standardized is None
    assert "standardized" not in layer.state_dict()


def test_layers_that_no_kernel_standardizes_are_left_to_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    class Halved(StandardizedConv2d):
        def standardized_weight(self) -> Tensor:
            return super().standardized_weight() / 2

    layers = build("ws", "cpu")
    layers["halved"] = Halved(8, 4, 3)
    layers["frozen"] = StandardizedConv2d(8, 4, 3).requires_grad_(False)
    monkeypatch.setattr(module, "MAX_FAN_IN", 100)
    (weights,) = standardized_weights(layers, torch.float32)
    assert list(weights.leaves) == [f"{name}.standardized" for name in LAYERS if name != "160 weights"]
    assert standardized_weights(nn.Conv2d(3, 4, 3), torch.float32) == []


def test_layers_of_both_formulas_are_standardized_by_their_own() -> None:
    net = nn.Sequential(build("ws", "cpu")["72 weights"], build("sws", "cpu")["72 weights"])
    assert [list(weights.leaves) for weights in standardized_weights(net, torch.float32)] == [
        ["0.standardized"],
        ["1.standardized"],
    ]
