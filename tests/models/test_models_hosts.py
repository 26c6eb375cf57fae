"""VGG-A, WRN-28-10 and ConvNeXt against torchvision and published counts; every network at other image sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.convnext import CNBlock
from torchvision.models.vgg import cfgs, make_layers

from normbench.errors import ConfigError
from normbench.models import MODELS, build_model
from normbench.models.convnext import ConvNeXtBlock
from normbench.models.transformer import TransformerBlock
from normbench.norms import make_norm

CLASSIFIERS = [
    name for name, model in MODELS.items() if model.task == "classification" and model.norm_family == "image"
]


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_features_of_vgg_a_are_torchvisions() -> None:
    torch.manual_seed(0)
    ours, theirs = build_model("vgg_a", norm=make_norm("bn")), make_layers(cfgs["A"], batch_norm=True)  # of vgg11_bn
    values = [tensor for name, tensor in theirs.state_dict().items() if "num_batches" not in name]
    names = [name for name in ours.features.state_dict() if "num_batches" not in name]
    ours.features.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    images = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(ours.features(images), theirs(images), rtol=1e-4, atol=1e-5)
    linear = num_parameters(ours.classifier)
    assert linear == 2 * (512 * 512 + 512) + 512 * 10 + 10
    assert num_parameters(ours) == num_parameters(theirs) + linear == 9_756_426


def test_the_wide_residual_net_has_its_papers_layers_and_count() -> None:
    with torch.device("meta"):
        network = build_model("wrn28_10", norm=make_norm("bn"))
    assert num_parameters(network) == 36_479_194  # "36.5M" in table 5 of arXiv 1605.07146
    weighted = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    shortcuts = [module for module in weighted if getattr(module, "kernel_size", None) == (1, 1)]
    assert len(weighted) - len(shortcuts) == 26  # 28 with the two shortcuts that are counted to the depth
    assert len(shortcuts) == 3


def test_a_convnext_block_is_torchvisions_without_layer_scale() -> None:
    torch.manual_seed(0)
    ours = ConvNeXtBlock(8, size=6, norm=make_norm("ln2d", eps=1e-6))
    theirs = CNBlock(8, layer_scale=1.0, stochastic_depth_prob=0.0)
    depthwise, norm, expand, project = (theirs.block[index] for index in (0, 2, 3, 5))
    with torch.no_grad():
        for mine, other in ((ours.depthwise, depthwise), (ours.expand, expand), (ours.project, project)):
            mine.weight.copy_(other.weight.view(mine.weight.shape))
            mine.bias.copy_(other.bias)
        weight, bias = ours.norm.parameters()
        weight.copy_(norm.weight.uniform_())
        bias.copy_(norm.bias.uniform_())
    x = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_network_follows_image_size_and_number_of_classes(name: str) -> None:
    """Also odd sizes, with a norm that has parameters per pixel: so each layer is told its true size."""
    with torch.device("meta"):
        for size in (8, 33, 96):
            network = build_model(name, norm=make_norm("ln_chw"), num_classes=7, image_size=size)
            assert network(torch.empty(2, 3, size, size)).shape == (2, 7)


def test_a_vision_transformer_takes_sizes_that_its_patches_divide() -> None:
    with torch.device("meta"):
        for size in (8, 48, 96):
            network = build_model("vit", norm=nn.LayerNorm, num_classes=7, image_size=size)
            assert network(torch.empty(2, 3, size, size)).shape == (2, 7)
        with pytest.raises(ConfigError, match="images of 30x30 cannot be cut into 4x4 patches"):
            build_model("vit", norm=nn.LayerNorm, image_size=30)


def test_a_transformer_block_without_a_norm_has_layer_norm() -> None:
    block = TransformerBlock(16, 4)
    assert isinstance(block.norm1, nn.LayerNorm)
    tokens = torch.randn(2, 5, 16)
    torch.testing.assert_close(block.norm1(tokens), nn.functional.layer_norm(tokens, (16,)))


def test_starts_that_a_network_cannot_have_are_refused() -> None:
    for name in ("vgg_a", "convnext"):
        with pytest.raises(ConfigError, match="cannot use init='fixup'"):
            build_model(name, norm=make_norm("none", init="fixup"))
    network = build_model("convnext", norm=make_norm("none", init="skipinit"))
    x = torch.rand(1, 64, 4, 4)
    assert torch.equal(network.features[2](x), x)  # each block starts as the identity
