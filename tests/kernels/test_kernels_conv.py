"""The convolution between layers, interpreted on the CPU, against torch's in float64."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from interpreted_bf16 import widen_products
from torch import Tensor
from torch.nn import functional

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

from normbench.kernels import can_convolve, conv, conv_plan, convolve

Shape = tuple[int, int, int, int, int, int, int]
SHAPES: list[Shape] = [  # N, C, H, W, C_out, kernel, stride
    (4, 16, 8, 8, 32, 3, 2),  # the weight's gradient takes whole images at a time
    (1, 16, 16, 8, 16, 3, 1),  # and here eight lines of one
    (1, 32, 7, 5, 16, 3, 2),  # odd: the last row and column of a parity do not exist
    (3, 48, 5, 6, 16, 3, 1),
    (2, 16, 5, 4, 48, 1, 2),
    (1, 16, 1, 3, 16, 1, 1),
]


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fill new memory with NaN, so that an element no program writes shows."""
    widen_products(monkeypatch)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def draw(shape: Shape, dtype: torch.dtype, *, whole: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Draw input, weight and output gradient; `whole` numbers, so small that no sum is rounded."""
    n, c, h, w, c_out, kernel, stride = shape
    source = torch.Generator().manual_seed(sum(shape))
    out = ((h - 1) // stride + 1, (w - 1) // stride + 1)
    sizes = ((n, c, h, w), (c_out, c, kernel, kernel), (n, c_out, *out))
    drawn = [torch.randint(-1, 2, s, generator=source) if whole else torch.randn(s, generator=source) for s in sizes]
    x, weight, grad = (t.to(dtype).contiguous(memory_format=torch.channels_last) for t in drawn)
    return x, weight, grad


def expected(x: Tensor, weight: Tensor, grad: Tensor, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    leaves = [tensor.detach().double().contiguous().requires_grad_() for tensor in (x, weight)]
    y = functional.conv2d(*leaves, stride=stride, padding=weight.shape[2] // 2)
    return (y.detach(), *torch.autograd.grad(y, leaves, grad.double()))


def outputs_and_gradients(x: Tensor, weight: Tensor, grad: Tensor, stride: int) -> list[Tensor]:
    leaves = [tensor.detach().clone(memory_format=torch.preserve_format).requires_grad_() for tensor in (x, weight)]
    y = convolve(*leaves, stride)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


def assert_close(actual: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float = 1e-2) -> None:
    for position, (a, w) in enumerate(zip(actual, wanted, strict=True)):
        assert ((a.double().cpu() - w).norm() / w.norm()).item() < tolerance, position


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_sum_is_exact_where_nothing_is_rounded(shape: Shape) -> None:
    x, weight, grad = draw(shape, torch.float16, whole=True)  # whole numbers to 2048 are exact
    actual = outputs_and_gradients(x, weight, grad, shape[-1])
    for a, wanted in zip(actual, expected(x, weight, grad, shape[-1]), strict=True):
        assert torch.equal(a.double(), wanted)
        assert a.is_contiguous(memory_format=torch.channels_last)


def test_bf16_matches_and_repeats() -> None:
    shape = SHAPES[0]
    x, weight, grad = draw(shape, torch.bfloat16)
    first, second = (outputs_and_gradients(x, weight, grad.contiguous(), 2) for _ in range(2))
    assert_close(first, expected(x, weight, grad, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def draw_bias(channels_out: int) -> Tensor:
    """Draw a bias, float32, in steps so small that 16 bits cannot hold its sum with a whole number."""
    return torch.randint(-4000, 4000, (channels_out,), generator=torch.Generator().manual_seed(1)) / 1024


@pytest.mark.parametrize("with_relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("shape", SHAPES[2:], ids=str)
def test_a_bias_is_added_before_the_only_rounding(shape: Shape, with_relu: bool) -> None:
    x, weight, grad = draw(shape, torch.float16, whole=True)
    bias = draw_bias(len(weight)).requires_grad_()
    wanted = expected(x, weight, grad, shape[-1])[0] + bias.detach().double()[:, None, None]
    y = convolve(x, weight, shape[-1], bias=bias, relu=conv.Relu() if with_relu else None)
    assert torch.equal(y, (wanted.relu() if with_relu else wanted).half())
    y.backward(grad)
    assert bias.grad is not None
    passed = grad.double() * (wanted > 0) if with_relu else grad.double()
    assert torch.equal(bias.grad.double(), passed.sum((0, 2, 3)))


def test_cudnns_convolution_takes_the_bias_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv, "is_faster", lambda *_, **__: False)
    x, weight, grad = draw(SHAPES[2], torch.float16, whole=True)
    bias = draw_bias(len(weight))
    wanted = expected(x, weight, grad, 2)[0] + bias.double()[:, None, None]
    torch.testing.assert_close(convolve(x, weight, 2, bias=bias).double(), wanted, rtol=2e-3, atol=2e-3)


def test_shares_of_a_weight_used_twice_are_kept_and_their_sum_is_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    tile, _ = conv_plan.weight_tile(conv_plan.ConvShape(9, 8, 8, 16, 16, 3, 2))
    monkeypatch.setattr(conv, "weight_tile", lambda _: (replace(tile, k=16), 4))  # of 9 tiles: 3, 3, 3 and none
    x, weight, grad = draw((9, 16, 8, 8, 16, 3, 2), torch.float16)
    wanted = expected(x, weight, grad, 2)[2]
    leaf = weight.requires_grad_()
    sink = leaf.gradient_shares = conv.GradientShares()  # type: ignore[attr-defined]
    for _ in range(2):
        convolve(x, leaf, 2).backward(grad)
    assert leaf.grad is None
    assert sink.tensor is not None
    assert sink.tensor.shape == (8, 16, 3, 3, 16)
    error = (sink.tensor.double().sum(0).permute(0, 3, 1, 2) / 2 - wanted).norm() / wanted.norm()
    assert error < 1e-5


def test_what_the_kernels_do_not_take() -> None:
    x, weight, _ = draw(SHAPES[0], torch.bfloat16)

    def can(x: Tensor, weight: Tensor = weight, stride: int = 2, dtype=torch.bfloat16) -> bool:
        return can_convolve(x, weight, stride, dtype)

    assert can(x)
    assert can(x.float(), weight.float())  # which are cast before
    assert not can(x, dtype=torch.float32)  # its products would not be those of float32
    assert not can(x, stride=3)
    assert not can(x.contiguous())
    assert not can(x, weight.contiguous())
    assert not can(x[:0])
    assert not can(x[0])
    assert not can(x, weight[:, :8])
    assert not can(x[:, :8], weight[:, :8].contiguous(memory_format=torch.channels_last))
    assert not can(x, weight[:24].contiguous(memory_format=torch.channels_last))
    assert not can(x, weight[:, :, :2, :2].contiguous(memory_format=torch.channels_last))
    with pytest.raises(ValueError, match="can_convolve"):
        convolve(x.float(), weight, 2)


def test_operands_are_loaded_ahead_by_the_widest_instructions() -> None:
    """Whether the compiler sees that they can be differs from version to version, and no result would show it."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    program = Path(__file__).with_name("compiled_conv.py")
    found = json.loads(subprocess.check_output([sys.executable, program], env=environment, text=True))
    assert found.keys() == {"forward", "input_gradient", "weight_gradient"}
    for loads in found.values():
        assert loads["2 bytes"] == 0
        assert loads["16 bytes ahead"] > 0
