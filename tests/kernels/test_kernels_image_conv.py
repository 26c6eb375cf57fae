"""The convolution of images, interpreted on the CPU, against torch's in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from interpreted_bf16 import widen_products
from torch import Tensor
from torch.nn import functional

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

from normbench.kernels import can_convolve_images, convolve_images, tiling
from normbench.kernels.conv import Relu

SHAPES = [
    (3, 3, 5, 7, 24),
    (1, 1, 4, 4, 64),
    (2, 4, 7, 5, 96),  # blocks of 64 and 32 output channels
    (5, 3, 8, 8, 64),  # 320 pixels: three tiles
    (2, 2, 1, 9, 8),  # fewer channels than a block has
]


@pytest.fixture(autouse=True)
def _bf16_products(monkeypatch: pytest.MonkeyPatch) -> None:
    widen_products(monkeypatch)


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """Fill new memory with NaN, so that an element no program writes shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def draw(shape: tuple[int, int, int, int, int], *, whole: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Draw images, weights and an output gradient; `whole` numbers, so few and small that no rounding takes place."""
    n, channels, height, width, channels_out = shape
    source = torch.Generator().manual_seed(sum(shape))
    sizes = ((n, channels, height, width), (channels_out, channels, 3, 3), (n, channels_out, height, width))
    drawn = [torch.randint(-2, 3, s, generator=source) if whole else torch.randn(s, generator=source) for s in sizes]
    images, weight, grad = (t.to(dtype).contiguous(memory_format=torch.channels_last) for t in drawn)
    return images, weight, grad


def expected(images: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    wide = weight.detach().double().contiguous().requires_grad_()
    y = functional.conv2d(images.double(), wide, padding=1)
    return y.detach(), torch.autograd.grad(y, wide, grad.double())[0]


@pytest.mark.parametrize("programs", [512, 2], ids=["a program a tile", "programs take turns"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_sum_is_exact_where_nothing_is_rounded(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype, programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiling, "IMAGE_PROGRAMS", programs)
    monkeypatch.setattr(tiling, "IMAGE_SHARE_TILES", 1)
    images, weight, grad = draw(shape, whole=True, dtype=dtype)
    y = convolve_images(images, weight.requires_grad_())
    y.backward(grad)
    expected_y, expected_gradient = expected(images, weight, grad)
    assert torch.equal(y.double(), expected_y)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    # Larger sums than these types hold exactly are rounded at the end, where the interpreter truncates.
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad.double(), expected_gradient, rtol=2**-7, atol=0)
    exact = expected_gradient.abs() <= 2**8
    assert exact.any()
    assert torch.equal(weight.grad.double()[exact], expected_gradient[exact])


@pytest.mark.parametrize("channels_last", [True, False], ids=["channels_last", "contiguous"])
def test_images_are_rounded_and_weights_have_any_strides(channels_last: bool) -> None:
    images, weight, grad = draw((2, 3, 6, 5, 32), whole=False, dtype=torch.float32)
    rounded = images.half()
    weight, grad = weight.half(), grad.half().contiguous()
    if not channels_last:
        weight = weight.contiguous()
    y = convolve_images(images, weight.requires_grad_())
    y.backward(grad)
    expected_y, expected_gradient = expected(rounded, weight, grad)
    torch.testing.assert_close(y.double(), expected_y, rtol=2e-3, atol=2e-3)
    assert weight.grad is not None
    assert weight.grad.stride() == weight.stride()
    torch.testing.assert_close(weight.grad.double(), expected_gradient, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("with_relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("shape", SHAPES[2:], ids=str)
def test_a_bias_is_added_before_the_only_rounding(shape: tuple[int, int, int, int, int], with_relu: bool) -> None:
    images, weight, grad = draw(shape, whole=True, dtype=torch.float16)
    steps = torch.randint(-4000, 4000, (len(weight),), generator=torch.Generator().manual_seed(1))
    bias = (steps / 1024).requires_grad_()  # more digits than 16 bits hold beside a whole number
    wanted = expected(images, weight, grad)[0] + bias.detach().double()[:, None, None]
    y = convolve_images(images, weight, bias=bias, relu=Relu() if with_relu else None)
    assert torch.equal(y, (wanted.relu() if with_relu else wanted).half())
    y.backward(grad)
    assert bias.grad is not None
    passed = grad.double() * (wanted > 0) if with_relu else grad.double()
    assert torch.equal(bias.grad.double(), passed.sum((0, 2, 3)))


def test_gradient_is_the_same_each_time() -> None:
    images, weight, grad = draw((9, 3, 8, 8, 16), whole=False, dtype=torch.float16)
    y = convolve_images(images, weight.requires_grad_())
    first, second = (torch.autograd.grad(y, weight, grad, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_what_the_kernel_does_not_take() -> None:
    images, weight, _ = draw((2, 3, 4, 4, 8), whole=True, dtype=torch.bfloat16)

    def can(images: Tensor, shape: tuple[int, ...] = (8, 3, 3, 3), dtype: torch.dtype = torch.bfloat16) -> bool:
        return can_convolve_images(images, torch.Size(shape), dtype)

    assert can(images)
    assert can(images.float())
    assert not can(images.float(), dtype=torch.float32)  # its products would not be those of float32
    assert not can(images.contiguous())
    assert not can(images[0])
    assert not can(images, (8, 3, 1, 1))
    assert not can(images, (8, 4, 3, 3))
    assert not can(images[:0])
    many = torch.cat([images, images], 1).contiguous(memory_format=torch.channels_last)
    assert not can(many, (8, 6, 3, 3))
    learned = images.requires_grad_()
    assert not can(learned)
    with torch.no_grad():
        assert can(learned)
    with pytest.raises(ValueError, match="can_convolve_images"):
        convolve_images(learned, weight)


def test_a_relu_may_overwrite_the_output() -> None:
    images, weight, grad = draw(SHAPES[0], whole=True, dtype=torch.bfloat16)
    ours, theirs = weight.requires_grad_(), weight.detach().double().requires_grad_()
    convolve_images(images, ours).relu_().backward(grad)
    functional.conv2d(images.double(), theirs, padding=1).relu().backward(grad.double())
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad.double(), theirs.grad)
