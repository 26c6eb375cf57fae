"""The convolution as one matrix product: against the sum it stands for, and only where it is to be used."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from normbench.layers import patch_conv2d
from normbench.layers.conv2d import Conv2d

CHANNELS_LAST = torch.channels_last
OUT_CHANNELS = patch_conv2d.LIMITS[torch.float32].min_channels
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of the inputs that were convolved by patches."""
    shapes: list[torch.Size] = []
    convolve = patch_conv2d.convolve_patches

    def spy(input: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
        shapes.append(input.shape)
        return convolve(input, weight, stride)

    monkeypatch.setattr("normbench.layers.conv2d.convolve_patches", spy)
    return shapes


def layer(in_channels: int = 5, out_channels: int = OUT_CHANNELS, **options: object) -> Conv2d:
    torch.manual_seed(0)
    conv = Conv2d(in_channels, out_channels, 3, **{"padding": 1, "bias": False} | options)
    return conv.to(memory_format=CHANNELS_LAST)  # type: ignore[call-overload, no-any-return]


def draw(n: int, c: int, h: int, w: int) -> torch.Tensor:
    return torch.randn(n, c, h, w, generator=torch.Generator().manual_seed(1)).contiguous(memory_format=CHANNELS_LAST)


def summed(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """y[n, o, i, j] = sum over c, k, l of x[n, c, stride i + k - 1, stride j + l - 1] weight[o, c, k, l], float64."""
    n, _, height, width = x.shape
    y = np.zeros((n, weight.shape[0], -(-height // stride), -(-width // stride)))
    for i, j in np.ndindex(y.shape[2:]):
        for k, column in np.ndindex(3, 3):
            row, at = stride * i + k - 1, stride * j + column - 1
            if 0 <= row < height and 0 <= at < width:
                y[:, :, i, j] += x[:, :, row, at] @ weight[:, :, k, column].T
    return y


def as_float64(x: torch.Tensor | None) -> np.ndarray:
    assert x is not None
    return x.detach().double().numpy()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("size", "stride"), [((8, 8), 2), ((7, 7), 2), ((4, 4), 1), ((9, 3), 1), ((1, 1), 2), ((5, 12), 3), ((4, 16), 4)]
)
def test_output_and_gradients_are_those_of_the_sum(
    size: tuple[int, int], stride: int, dtype: torch.dtype, calls: list[torch.Size]
) -> None:
    conv, x = layer(stride=stride).to(dtype), draw(3, 5, *size).to(dtype).requires_grad_()
    y = conv(x)
    assert calls == [x.shape]
    weight = as_float64(conv.weight)
    expected = summed(as_float64(x), weight, stride)
    rounding = 2.0**-8 if dtype == torch.bfloat16 else 2e-6  # bf16 keeps 8 bits, and everything is rounded once
    np.testing.assert_allclose(as_float64(y), expected, rtol=rounding, atol=2e-6)
    assert y.is_contiguous(memory_format=CHANNELS_LAST)

    # The sum is linear in x and in the weight: <grad, conv(dx, w)> = <grad_x, dx> for every dx, and likewise for dw.
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(dtype)  # contiguous: of any layout
    y.backward(grad)
    grad_x, grad_w = as_float64(x.grad), as_float64(conv.weight.grad)
    generator = np.random.default_rng(3)
    for _ in range(3):
        dx, dw = generator.normal(size=x.shape), generator.normal(size=weight.shape)
        by_x = (as_float64(grad) * summed(dx, weight, stride)).sum()
        by_w = (as_float64(grad) * summed(as_float64(x), dw, stride)).sum()
        # What rounding leaves of <grad_x, dx> is a sum of independent errors: four standard deviations of it.
        near_x, near_w = (4 * rounding * np.linalg.norm(g * d) + 1e-3 for g, d in ((grad_x, dx), (grad_w, dw)))
        assert (grad_x * dx).sum() == pytest.approx(by_x, rel=1e-4, abs=near_x)
        assert (grad_w * dw).sum() == pytest.approx(by_w, rel=1e-4, abs=near_w)
    assert x.grad is not None
    assert x.grad.is_contiguous(memory_format=CHANNELS_LAST)


@pytest.mark.parametrize(("stride", "size"), [(1, 8), (2, 16), (2, 8)])
def test_in_bf16_every_gradient_is_that_of_float64_to_one_rounding(stride: int, size: int) -> None:
    """Of an output 8 wide, whose input's gradient is torch's, and of one 4 wide.

    On a processor without 16-bit arithmetic torch rounds its gradient more often than once.
    """
    conv, x = layer(32, 256, stride=stride), draw(2, 32, size, size).bfloat16().requires_grad_()
    exact, z = nn.functional.conv2d, x.detach().double().requires_grad_()
    weight = conv.weight.detach().bfloat16().double().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(x)
    assert type(y.grad_fn).__name__ == "_PatchConvolutionBackward"
    expected = exact(z, weight, stride=stride, padding=1)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).bfloat16()
    y.backward(grad)
    expected.backward(grad.double())
    plain = x.detach().requires_grad_()
    exact(plain, weight.detach().bfloat16(), stride=stride, padding=1).backward(grad)
    within_a_rounding = {"rtol": 2.0**-8, "atol": 1e-4}
    for_x = z.grad
    if size // stride == 8 and not torch.allclose(plain.grad.double(), z.grad, **within_a_rounding):
        for_x = plain.grad.double()
    for ours, theirs in ((y, expected), (x.grad, for_x), (conv.weight.grad, weight.grad)):
        assert ours is not None
        torch.testing.assert_close(ours.double(), theirs, **within_a_rounding)


def test_under_autocast_the_weights_gradient_is_float32_and_the_output_bf16() -> None:
    conv, x = layer(8), draw(2, 8, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert conv.weight.grad is not None
    assert conv.weight.grad.dtype == torch.float32


def test_a_step_is_that_of_torchs_layers() -> None:
    conv, x = layer(64, stride=2), draw(4, 64, 8, 8)
    plain = nn.Conv2d(64, OUT_CHANNELS, 3, stride=2, padding=1, bias=False)
    plain.load_state_dict(conv.state_dict())
    for each in (conv, plain):
        (each(x).relu() ** 2).mean().backward()
    torch.testing.assert_close(conv.weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-8)


def test_without_a_gradient_nothing_is_kept(calls: list[torch.Size]) -> None:
    conv, x = layer(), draw(2, 5, 4, 4)
    with torch.no_grad():
        assert not conv(x).requires_grad
    conv.requires_grad_(False)
    assert not conv(x).requires_grad
    assert len(calls) == 2


@pytest.mark.parametrize(
    "options",
    [{"bias": True}, {"padding": 0}, {"padding": 2, "dilation": 2}, {"padding_mode": "reflect"}, {"stride": (1, 2)},
     {"out_channels": OUT_CHANNELS - 1}],
)  # fmt: skip
def test_other_layers_are_torchs(options: dict[str, object], calls: list[torch.Size]) -> None:
    layer(**options)(draw(2, 5, 4, 4))  # type: ignore[arg-type]
    assert not calls


def test_other_inputs_are_torchs(monkeypatch: pytest.MonkeyPatch, calls: list[torch.Size]) -> None:
    conv, x = layer(), draw(2, 5, 4, 4)
    conv(x.contiguous())
    conv(draw(2, 5, 4, 8))  # wide
    conv(x[:0])
    conv(x[0])  # one image, without a batch
    with torch.autocast("cpu", dtype=torch.float16):
        conv(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        conv(draw(2, 5, 4, 9))
    layer().double()(x.double())
    layer().to("meta")(x.to("meta"))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    conv(x)
    assert not calls


def test_a_relu_may_overwrite_the_output() -> None:
    conv, x = layer(), draw(2, 5, 4, 4)
    patch_conv2d.convolve_patches(x, conv.weight, 1).relu_().sum().backward()
    ours = as_float64(conv.weight.grad)
    conv.weight.grad = None
    nn.functional.conv2d(x, conv.weight, padding=1).relu().sum().backward()
    np.testing.assert_allclose(ours, as_float64(conv.weight.grad), rtol=1e-5, atol=1e-6)
