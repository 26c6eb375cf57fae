"""The maximum over 2 x 2 pixels, interpreted on the CPU, against torch's operation, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

from normbench.kernels import can_pool_maxima, pool_maxima
from normbench.layers.max_pool2d import MaxPool2d

SHAPES = [(2, 16, 6, 4), (3, 5, 7, 5), (1, 64, 2, 3), (2, 24, 15, 15)]


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """Fill new memory with NaN, so that an element no program writes shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def draw(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Draw an input with many equal values, and an output gradient."""
    source = torch.Generator().manual_seed(sum(shape))
    n, c, h, w = shape
    x = torch.randint(-2, 3, shape, generator=source).to(dtype).contiguous(memory_format=torch.channels_last)
    return x.requires_grad_(), torch.randn((n, c, h // 2, w // 2), generator=source).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_maxima_and_gradients_are_torchs(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, grad = draw(shape, dtype)
    expected = functional.max_pool2d(x, 2)
    y = pool_maxima(x)
    assert torch.equal(y, expected)
    assert y.is_contiguous(memory_format=torch.channels_last)
    (dx,) = torch.autograd.grad(y, x, grad)
    assert torch.equal(dx, torch.autograd.grad(expected, x, grad)[0])
    assert dx.is_contiguous(memory_format=torch.channels_last)


def test_a_value_that_is_no_number_is_passed_on_and_has_the_gradient() -> None:
    for pixel in range(4):
        values = torch.tensor([3.0, 5.0, 4.0, 1.0])
        values[pixel] = torch.nan
        x = values.view(1, 1, 2, 2).requires_grad_()
        for pool in (pool_maxima, lambda images: functional.max_pool2d(images, 2)):
            y = pool(x)
            assert y.isnan().all()
            (dx,) = torch.autograd.grad(y.sum(), x)
            assert dx.flatten().tolist() == [float(i == pixel) for i in range(4)]


def test_the_layer_takes_torchs_operation_where_there_is_no_kernel() -> None:
    x, _ = draw(SHAPES[0], torch.float32)
    layer = MaxPool2d()
    assert can_pool_maxima(x)
    for other in (x.double(), x.contiguous(), x[:, :, :1], x[:0]):
        assert not layer.has_kernel(other)
    for other in (x, x.double(), x.contiguous()):
        assert torch.equal(layer(other), functional.max_pool2d(other, 2))
