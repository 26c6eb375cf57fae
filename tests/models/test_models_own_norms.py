"""Every network takes a function or class of a number of channels for a norm, and says so where it gets neither."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from normbench.errors import ConfigError
from normbench.layers.norm_act import FusedNormAct
from normbench.models import MODELS, build_model
from normbench.models.normresnet import NormResNet
from normbench.models.transformer import TransformerBlock
from normbench.norms import NormLike, as_factory, as_sequence_factory, make_norm, make_sequence_norm


def plain_group_norm(num_channels: int) -> nn.Module:
    return nn.GroupNorm(8, num_channels)


OWN = {
    "lambda": lambda num_channels: nn.GroupNorm(8, num_channels),
    "function": plain_group_norm,
    "partial": functools.partial(nn.GroupNorm, 8),
    "class": nn.BatchNorm2d,
}
own_norms = pytest.mark.parametrize("norm", OWN.values(), ids=OWN)
IMAGE_MODELS = [name for name, model in MODELS.items() if model.norm_family == "image"]


@own_norms
@pytest.mark.parametrize("model", IMAGE_MODELS)
def test_every_image_model_takes_them(model: str, norm: NormLike) -> None:
    with torch.device("meta"):
        network = build_model(model, norm=norm)
        images = torch.empty(2, 3, 32, 32)
        assert network(images).shape == (images.shape if model == "stylenet" else (2, 10))
    assert any(isinstance(module, nn.GroupNorm | nn.BatchNorm2d) for module in network.modules())


@own_norms
def test_the_tutorials_net_trains_with_them(norm: NormLike) -> None:
    network = NormResNet(norm=norm)
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_it_computes_what_the_catalogs_norm_does() -> None:
    logits = []
    for norm in (make_norm("gn", groups=8), plain_group_norm):
        torch.manual_seed(0)
        network = build_model("preact_resnet18", norm=norm)
        logits.append(network(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))))
    torch.testing.assert_close(*logits)


@pytest.mark.parametrize("norm", [nn.LayerNorm, lambda d_model: nn.LayerNorm(d_model), functools.partial(nn.LayerNorm)])
def test_transformers_take_them_too(norm: NormLike) -> None:
    network = build_model("vit", norm=norm, d_model=12, depth=1)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert TransformerBlock(12, 3, 24, norm=norm)(torch.rand(2, 5, 12)).shape == (2, 5, 12)


def test_a_norm_that_gives_back_its_input_does_not_have_it_overwritten() -> None:
    """In a pre-activation block the input is the shortcut too."""
    x = -torch.ones(1, 8, 2, 2)
    as_factory(lambda _: nn.Identity()).norm_act(8)(x)
    assert (x == -1).all()


def test_the_name_is_the_functions() -> None:
    assert as_factory(plain_group_norm).name == "plain_group_norm"
    assert as_factory(nn.BatchNorm2d).name == "BatchNorm2d"
    assert as_factory(functools.partial(nn.GroupNorm, 8)).name == "GroupNorm"
    factory = make_norm("gn+ws")
    assert as_factory(factory) is factory


def test_a_subclass_that_computes_something_else_is_not_fused() -> None:
    class Doubled(type(make_norm("gn")(8))):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    fused = make_norm("gn").norm_act(8)
    assert isinstance(fused, FusedNormAct)
    assert not isinstance(as_factory(lambda c: Doubled(c, num_groups=4)).norm_act(8), FusedNormAct)


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        ("gn", r"such as torch\.nn\.BatchNorm2d, not a name: make_norm\('gn'\)"),
        (nn.BatchNorm2d(64), r"not the layer BatchNorm2d\(64, .*\): the network builds a layer for each place"),
        (make_sequence_norm("ln"), r"give it make_norm\('ln'\), not SequenceNormFactory"),
        (None, "norm must be made by make_norm, or be a function or class of the number of channels, .* not None"),
        (lambda _: None, r"norm '<lambda>' must return a layer, a torch\.nn\.Module; for 64 it returned None"),
    ],
    ids=["name", "layer", "sequence norm", "None", "function of nothing"],
)
def test_what_is_no_norm_is_refused(norm: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NormResNet(norm=norm)  # type: ignore[arg-type]


def test_a_transformer_refuses_image_norms() -> None:
    with pytest.raises(ConfigError, match=r"give it make_sequence_norm\('ln'\), not NormFactory"):
        TransformerBlock(12, 3, norm=make_norm("ln"))
    with pytest.raises(ConfigError, match=r"such as torch\.nn\.LayerNorm, not a name: make_sequence_norm\('ln'\)"):
        as_sequence_factory("ln")  # type: ignore[arg-type]
