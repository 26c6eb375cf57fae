"""The style-transfer network: its exact architecture, with every norm."""

import pytest
import torch
from torch import nn

from normbench.errors import ConfigError
from normbench.models import build_model
from normbench.models.stylenet import StyleTransferNet
from normbench.norms import NORMS, make_norm


def test_parameter_count_shape_and_range() -> None:
    network = StyleTransferNet(make_norm("in"))
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_676_035
    with torch.no_grad():
        images = network(10 * torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0)))
    assert images.shape == (1, 3, 256, 256)
    assert -1 <= images.min() < images.max() <= 1


def test_layers_are_those_of_the_paper() -> None:
    network = StyleTransferNet(make_norm("in"))
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    shapes = [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0]) for m in convolutions]
    residual = [(128, 128, 3, 1)] * 10
    assert shapes == [
        (3, 32, 9, 1),
        (32, 64, 3, 2),
        (64, 128, 3, 2),
        *residual,
        (128, 64, 3, 2),
        (64, 32, 3, 2),
        (32, 3, 9, 1),
    ]
    assert sum(isinstance(m, nn.ReLU) for m in network.modules()) == 3 + 5 + 2
    assert [m.output_padding for m in convolutions if isinstance(m, nn.ConvTranspose2d)] == [(1, 1), (1, 1)]


@pytest.mark.parametrize("norm", [*(name for name in NORMS if name != "ln_chw"), "gn+ws"])
def test_takes_every_norm_that_fits_any_image_size(norm: str) -> None:
    with torch.device("meta"):
        network = build_model("stylenet", norm=make_norm(norm))
        assert network(torch.empty(2, 3, 64, 48)).shape == (2, 3, 64, 48)
    assert sum(isinstance(m, nn.ReLU) for m in network.modules()) == (
        0 if NORMS[norm[:2] if "+" in norm else norm].replaces_activation else 10
    )


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="ln_chw has parameters per pixel"):
        build_model("stylenet", norm=make_norm("ln_chw"))
    with pytest.raises(ConfigError, match="cannot use init='fixup'"):
        build_model("stylenet", norm=make_norm("none", init="fixup"))
    with pytest.raises(ValueError, match="multiples of 4"):
        StyleTransferNet(make_norm("in"))(torch.zeros(1, 3, 30, 32))
