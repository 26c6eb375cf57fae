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
from normbench.kernels import conv, norm_activation, tiling
from normbench.kernels.tile_statistics import statistics_of
from normbench.layers.conv_stack import ConvStack
from normbench.norms import NormFactory


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, bool]]:
    """Interpret the kernels; return for each convolution whether its kernels run the ReLUs behind and before it."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    widen_products(monkeypatch)
    seen: list[tuple[bool, bool]] = []
    images, layers = kernels.convolve_images, kernels.convolve

    def convolve_images(x: Tensor, weight: Tensor, *, relu: conv.Relu | None = None) -> Tensor:
        seen.append((relu is not None, False))
        return images(x, weight, relu=relu)

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


def test_a_norm_over_the_batch_uses_the_statistics_of_the_tiles(
    launches: list[tuple[bool, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiling, "FORWARD_TILE", 64)  # so that even few rows would be split among programs
    used = []
    monkeypatch.setattr(norm_activation, "statistics_of", lambda x: used.append(statistics_of(x)) or used[-1])
    norm = make_norm("bn")
    layers = [norm.conv2d(32, 16, 3, stride=2, padding=1), norm.norm_act(16)]
    plain = copy.deepcopy(layers)
    x = (torch.randn(5, 32, 9, 8) + 2).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.float16):
        y = ConvStack(*layers).to(memory_format=torch.channels_last)(x)  # 100 rows: a tile of 64 and one of 36
        expected = nn.Sequential(*plain).to(memory_format=torch.channels_last)(x)
    assert layers[0].with_statistics
    assert len(launches) == 2
    assert [statistics is not None for statistics in used] == [True, False]
    torch.testing.assert_close(y, expected, rtol=2e-3, atol=2e-3)
    for name, buffer in layers[1].named_buffers():
        torch.testing.assert_close(buffer, plain[1].get_buffer(name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("is_changed", [False, True])
def test_statistics_are_those_of_the_output_and_void_once_it_is_changed(
    launches: list[tuple[bool, bool]], is_changed: bool
) -> None:
    x = torch.randn(5, 32, 9, 8).half().contiguous(memory_format=torch.channels_last)
    weight = torch.randn(16, 32, 3, 3).half().contiguous(memory_format=torch.channels_last)
    y = conv.convolve(x, weight, 2, with_statistics=True)
    if is_changed:
        y.mul_(2)
        assert statistics_of(y) is None
        return
    statistics = statistics_of(y)
    assert statistics is not None
    tiles = y.permute(0, 2, 3, 1).reshape(-1, 16).double().split(statistics.rows)
    assert len(tiles) == 2
    torch.testing.assert_close(statistics.mean.double(), torch.stack([t.mean(0) for t in tiles]), rtol=1e-5, atol=1e-5)
    var = torch.stack([t.var(0, correction=0) for t in tiles])
    torch.testing.assert_close(statistics.var.double(), var, rtol=1e-5, atol=1e-5)


def test_keys_are_a_sequentials() -> None:
    assert list(NormResNet(norm=make_norm("none")).state_dict())[:2] == ["features.0.weight", "features.2.weight"]
