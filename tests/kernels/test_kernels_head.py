"""The mean over positions with a linear layer, interpreted on the CPU, against torch's operations in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from interpreted_bf16 import widen_products
from torch import Tensor
from torch.nn import functional

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

from normbench.kernels import can_pool_linear, pooled_linear, tiling

SHAPES = [
    (5, 96, 4, 4, 10),  # fewer samples than a tile has
    (36, 512, 4, 4, 10),
    (1, 512, 7, 7, 7),  # positions and classes that are no powers of two
    (64, 40, 1, 1, 10),  # no block of channels is full
    (40, 24, 2, 3, 20),  # two tiles of samples, two blocks of classes
]


@pytest.fixture(autouse=True)
def _bf16_products(monkeypatch: pytest.MonkeyPatch) -> None:
    widen_products(monkeypatch)


@pytest.fixture(autouse=True)
def _few_samples_in_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "HEAD_SAMPLES", 32)


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """Fill new memory with NaN, so that an element no program writes shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def draw(shape: tuple[int, int, int, int, int], dtype: torch.dtype = torch.float16) -> tuple[Tensor, ...]:
    """Draw input, weight, bias and an output gradient; the first three want gradients."""
    n, channels, height, width, classes = shape
    source = torch.Generator().manual_seed(sum(shape))
    sizes = (n, channels, height, width), (classes, channels), (classes,), (n, classes)
    x, weight, bias, grad = (torch.randn(size, generator=source).to(dtype) for size in sizes)
    x = x.contiguous(memory_format=torch.channels_last)
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), grad


def expected(x: Tensor, weight: Tensor, bias: Tensor | None, grad: Tensor) -> list[Tensor]:
    """Return the output and the gradients."""
    leaves = [t.detach().double().requires_grad_() for t in (x, weight, bias) if t is not None]
    y = functional.linear(leaves[0].mean((2, 3)), *leaves[1:])
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.double())]


# The interpreter truncates to bf16 where a GPU rounds, which doubles the error of 2^-9, twice in a row.
@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_and_gradients(shape: tuple[int, int, int, int, int], dtype: torch.dtype, error: float) -> None:
    x, weight, bias, grad = draw(shape, dtype)
    y = pooled_linear(x, weight, bias)
    y.backward(grad)
    leaves = [x, weight, bias]
    for actual, like, exact in zip(
        [y, *(leaf.grad for leaf in leaves)], [grad, *leaves], expected(x, weight, bias, grad), strict=True
    ):
        assert actual is not None
        assert (actual.dtype, actual.shape) == (dtype, like.shape)
        assert actual.is_contiguous(memory_format=torch.channels_last if like is x else torch.contiguous_format)
        assert (actual.double() - exact).norm() / exact.norm() < error


def test_without_a_bias() -> None:
    x, weight, bias, grad = draw(SHAPES[0])
    y = pooled_linear(x, weight)
    y.backward(grad)
    wanted = expected(x, weight, None, grad)
    for actual, exact in zip((y, x.grad, weight.grad), wanted, strict=True):
        assert actual is not None
        torch.testing.assert_close(actual.double(), exact, rtol=2e-3, atol=2e-3)
    assert bias.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_mean_is_rounded_as_torch_rounds_it(dtype: torch.dtype) -> None:
    """The difference of two channels whose means differ by 3/4 of a unit in the last place."""
    unit = torch.finfo(dtype).eps
    x = torch.tensor([[1.0, 1.0, 1.0, 1 + 3 * unit], [1.0] * 4], dtype=dtype).view(1, 2, 2, 2)
    x = x.contiguous(memory_format=torch.channels_last)
    y = pooled_linear(x, torch.tensor([[1.0, -1.0]], dtype=dtype))
    assert y.item() == (0 if dtype == torch.bfloat16 else unit)  # to bf16 the interpreter truncates


def test_gradients_are_the_same_each_time_and_may_be_strided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "HEAD_SAMPLES", 16)
    x, weight, bias, grad = draw((40, 32, 2, 2, 10))
    y = pooled_linear(x, weight, bias)
    strided = grad.T.contiguous().T
    results = [torch.autograd.grad(y, (x, weight, bias), g, retain_graph=True) for g in (grad, strided)]
    assert not strided.is_contiguous()
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    for actual, exact in zip(results[0], expected(x, weight, bias, grad)[1:], strict=True):
        torch.testing.assert_close(actual.double(), exact, rtol=2e-3, atol=2e-3)


def test_what_the_kernel_does_not_take() -> None:
    x, weight, bias, _ = draw((2, 32, 4, 4, 10))
    assert can_pool_linear(x, weight.shape, x.dtype)
    assert not can_pool_linear(x.contiguous(), weight.shape, x.dtype)
    assert not can_pool_linear(x, weight.shape, torch.bfloat16)
    assert not can_pool_linear(x.float(), weight.shape, torch.float32)
    assert not can_pool_linear(x[0], weight.shape, x.dtype)
    assert not can_pool_linear(x[:0], weight.shape, x.dtype)
    assert not can_pool_linear(x, torch.Size((10, 16)), x.dtype)
    assert not can_pool_linear(x, torch.Size((1025, 32)), x.dtype)
    large = torch.zeros(1, 32, 33, 32, dtype=x.dtype).contiguous(memory_format=torch.channels_last)
    assert not can_pool_linear(large, weight.shape, x.dtype)
    with pytest.raises(ValueError, match="can_pool_linear"):
        pooled_linear(x.contiguous(), weight, bias)
