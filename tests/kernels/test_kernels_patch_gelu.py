"""The convolution of images with fixed filters and a GELU, interpreted on the CPU, against torch in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

from normbench.kernels import can_convolve_patches_gelu, convolve_patches_gelu, patch_gelu


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """Fill new memory with NaN, so that an element no program writes shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def draw(samples: int, channels: int, height: int, width: int, filters: int, size: int) -> tuple[Tensor, ...]:
    source = torch.Generator().manual_seed(samples + filters)
    images = torch.randn(samples, channels, height, width, generator=source)
    weight = torch.randn(filters, channels, size, size, generator=source)
    bias = torch.randn(filters, generator=source).requires_grad_()
    grad = torch.randn(samples, filters, height - size + 1, width - size + 1, generator=source)
    return images.contiguous(memory_format=torch.channels_last), weight, bias, grad


@pytest.mark.parametrize("case", [(5, 3, 9, 8, 24, 2), (2, 1, 5, 5, 7, 3), (3, 4, 6, 7, 16, 1)], ids=str)
def test_output_and_gradient_match_the_formula(
    case: tuple[int, int, int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patch_gelu, "_BLOCK", 32)  # several programs
    monkeypatch.setattr(patch_gelu, "_TILES", 3)
    images, weight, bias, grad = draw(*case)
    y = convolve_patches_gelu(images, weight, bias, torch.float16)
    y.backward(grad.half())
    exact = bias.detach().double().requires_grad_()
    expected = functional.gelu(functional.conv2d(images.double(), weight.double(), exact))
    expected.backward(grad.half().double())
    torch.testing.assert_close(y.double(), expected, rtol=2e-3, atol=1e-6)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(bias.grad.double(), exact.grad, rtol=1e-5, atol=1e-4)


def test_what_the_kernel_does_not_take() -> None:
    images, weight, _, _ = draw(2, 3, 5, 5, 8, 2)
    assert can_convolve_patches_gelu(images, weight, torch.bfloat16)
    assert not can_convolve_patches_gelu(images, weight, torch.float32)
    assert not can_convolve_patches_gelu(images.half(), weight, torch.float16)
    assert not can_convolve_patches_gelu(images.contiguous(), weight, torch.float16)
    assert not can_convolve_patches_gelu(images.clone().requires_grad_(), weight, torch.float16)
    assert not can_convolve_patches_gelu(images, weight.clone().requires_grad_(), torch.float16)
    assert not can_convolve_patches_gelu(images, weight.repeat(9, 1, 1, 1), torch.float16)
