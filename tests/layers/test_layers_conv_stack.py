"""Convolutions with ReLUs inside their kernels, interpreted on the CPU, against the same layers in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from interpreted_bf16 import widen_products
from torch import Tensor, nn

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

from normbench import NormResNet, kernels, make_norm
from normbench.bench.folding import fold
from normbench.layers.conv2d import Conv2d
from normbench.layers.conv_stack import ConvStack
from normbench.norms import NormFactory


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, bool]]:
    """Interpret the kernels; return for each convolution whether its kernels run the ReLUs behind and before it."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    widen_products(monkeypatch)
    seen: list[tuple[bool, bool]] = []
    images, layers = kernels.convolve_images, kernels.convolve

    def convolve_images(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
        seen.append((options.get("relu") is not None, False))
        return images(x, weight, **options)

    def convolve(x: Tensor, weight: Tensor, stride: int, **options: Any) -> Tensor:
        seen.append((options.get("relu") is not None, options.get("before") is not None))
        return layers(x, weight, stride, **options)

    monkeypatch.setattr(kernels, "convolve_images", convolve_images)
    monkeypatch.setattr(kernels, "convolve", convolve)
    return seen


def stack(norm: NormFactory) -> ConvStack:
    torch.manual_seed(1)
    layers = [
        layer
        for c_in, c_out, stride in ((3, 16, 1), (16, 32, 2), (32, 16, 2))
        for layer in (norm.conv2d(c_in, c_out, 3, stride=stride, padding=1), norm.norm_act(c_out))
    ]
    return ConvStack(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def outputs_and_gradients(layers: nn.Module, images: Tensor) -> list[Tensor]:
    y = layers(images)
    y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y))
    return [y.detach(), *(parameter.grad for parameter in layers.parameters() if parameter.grad is not None)]


def draw() -> Tensor:
    images = torch.randn(2, 3, 7, 8, generator=torch.Generator().manual_seed(2))
    return images.contiguous(memory_format=torch.channels_last)


def assert_matches_layers_in_float64(layers: ConvStack) -> None:
    wide = nn.Sequential(*copy.deepcopy(layers)).double()
    for ours, exact in zip(
        outputs_and_gradients(layers, draw().half()), outputs_and_gradients(wide, draw().half().double()), strict=True
    ):
        torch.testing.assert_close(ours.double(), exact, rtol=2e-2, atol=2e-2)


def test_every_relu_runs_inside_a_kernel_and_its_gradient_in_the_next_ones(launches: list[tuple[bool, bool]]) -> None:
    layers = stack(make_norm("none")).half()
    assert_matches_layers_in_float64(layers)
    assert launches == [(True, False), (True, True), (True, True)]


def test_a_convolution_without_a_kernel_leaves_the_relu_before_it_its_own_gradient(
    launches: list[tuple[bool, bool]],
) -> None:
    layers = stack(make_norm("none")).half()
    layers[2] = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False).half()
    assert_matches_layers_in_float64(layers)
    assert launches == [(True, False), (True, False)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
def test_a_bias_has_a_kernel_in_16_bits_and_the_layers_result_everywhere(
    dtype: torch.dtype, layout: torch.memory_format, launches: list[tuple[bool, bool]]
) -> None:
    torch.manual_seed(3)
    layer = Conv2d(16, 32, 3, stride=2, padding=1).to(dtype, memory_format=layout)  # type: ignore[call-overload]
    x = torch.randn(2, 16, 5, 7).to(dtype, memory_format=layout)
    wide = copy.deepcopy(layer).double()
    ours, exact = (outputs_and_gradients(*each) for each in ((layer, x), (wide, x.double())))
    assert len(ours) == 3
    for a, wanted in zip(ours, exact, strict=True):
        assert a.dtype == dtype
        assert ((a.double() - wanted).norm() / wanted.norm()).item() < 1e-2
    assert len(launches) == (dtype != torch.float32 and layout == torch.channels_last)


def test_a_folded_norm_is_a_bias_in_the_kernels_that_a_network_without_norms_has(
    launches: list[tuple[bool, bool]],
) -> None:
    layers = stack(make_norm("bn"))
    layers(draw())  # running statistics
    folded = fold(layers.eval(), draw())
    assert folded is not None
    used = folded.model.half().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    launches.clear()
    with torch.no_grad():
        y = used(draw().half())
        torch.testing.assert_close(y.float(), layers(draw()), rtol=1e-2, atol=1e-2)
    assert launches == [(True, False), (True, True), (True, True)]


def test_hooks_see_every_layer(launches: list[tuple[bool, bool]]) -> None:
    layers = stack(make_norm("none")).half()
    seen = []
    layers[3][1].register_forward_hook(lambda _, x, y: seen.append((x[0].amin().item(), y.amin().item())))
    layers(draw().half())
    assert launches == [(True, False), (False, False), (True, False)]
    ((before, after),) = seen
    assert before < 0 == after


def test_norms_are_left_as_they_are(launches: list[tuple[bool, bool]]) -> None:
    layers = stack(make_norm("gn")).half()
    plain = nn.Sequential(*copy.deepcopy(layers))
    assert torch.equal(layers(draw().half()), plain(draw().half()))
    assert not any(with_relu or after_relu for with_relu, after_relu in launches)


def test_keys_are_a_sequentials() -> None:
    assert list(NormResNet(norm=make_norm("none")).state_dict())[:2] == ["features.0.weight", "features.2.weight"]
