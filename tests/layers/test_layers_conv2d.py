"""The networks' convolution against torch's: the same layer, whichever kernel runs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normbench import kernels
from normbench.layers.conv2d import Conv2d
from normbench.models import MODELS, build_model
from normbench.norms import make_norm


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.dtype, torch.dtype]]:
    """Stand in for the device's kernel, everywhere, and record the dtypes of the images and weights it was given."""
    given = []

    def convolve_images(
        images: torch.Tensor, weight: torch.Tensor, *, bias: torch.Tensor | None = None, relu: object = None
    ) -> torch.Tensor:
        given.append((images.dtype, weight.dtype))
        y = nn.functional.conv2d(images.to(weight.dtype), weight, bias, padding=1)
        return y if relu is None else y.relu()

    monkeypatch.setattr(kernels.image_conv, "unsupported_device_reason", lambda _: None)
    monkeypatch.setattr(kernels, "convolve_images", convolve_images)
    monkeypatch.setattr(kernels, "can_pool_linear", lambda *_: False)
    return given


def draw(size: int = 8) -> torch.Tensor:
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    return images.contiguous(memory_format=torch.channels_last)


def layer(*, bias: bool = False, **options: int) -> Conv2d:
    torch.manual_seed(2)
    return Conv2d(3, 16, 3, bias=bias, **{"padding": 1, **options}).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def plain(conv: Conv2d) -> nn.Conv2d:
    """Return torch's layer with the same parameters."""
    like = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=conv.bias is not None
    )
    like.load_state_dict(conv.state_dict())
    return like


def test_in_16_bits_images_take_the_kernel_as_autocast_would(launches: list[tuple[torch.dtype, torch.dtype]]) -> None:
    conv, images = layer(), draw()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, expected = conv(images), plain(conv)(images)
    assert launches == [(torch.float32, torch.bfloat16)]
    assert torch.equal(y, expected)
    y.float().sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.dtype == torch.float32
    conv.bfloat16()(images.bfloat16())
    assert launches[1:] == [(torch.bfloat16, torch.bfloat16)]


def test_all_else_is_torchs(launches: list[tuple[torch.dtype, torch.dtype]]) -> None:
    images = draw()
    conv = layer()
    assert torch.equal(conv(images), plain(conv)(images))  # float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        learned = images.clone().requires_grad_()
        conv(learned).float().sum().backward()
        assert learned.grad is not None
        for other in (layer(stride=2), layer(padding=0), layer(padding=2, dilation=2)):
            assert not launches
            if other.dilation == (1, 1):
                assert torch.equal(other(images), plain(other)(images))
            else:
                assert other(images).shape == (2, 16, 8, 8)
        conv(images.contiguous())
    assert not launches
    with pytest.raises(RuntimeError, match="type"):
        conv(images.bfloat16())  # mixed dtypes, without autocast: torch's own error


@pytest.mark.parametrize("weight", ["", "+ws", "+sws"])
@pytest.mark.parametrize("model", [name for name, m in MODELS.items() if m.norm_family == "image"])
def test_networks_convolve_their_images_with_the_kernel(
    model: str, weight: str, launches: list[tuple[torch.dtype, torch.dtype]]
) -> None:
    network = build_model(model, norm=make_norm(f"none{weight}")).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        network(draw(32))
    first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    takes_images = first.in_channels == 3  # speednet's first convolution takes whitened patches
    assert len(launches) == (takes_images and first.kernel_size == (3, 3))


def test_torch_compile_sees_torchs_convolution(
    monkeypatch: pytest.MonkeyPatch, launches: list[tuple[torch.dtype, torch.dtype]]
) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer()(draw())
    assert not launches


def test_parameters_and_keys_are_torchs() -> None:
    ours, theirs = Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
    assert repr(ours) == repr(theirs)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
