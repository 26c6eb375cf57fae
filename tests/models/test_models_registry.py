"""Every model with every norm: it builds without memory, and maps images to logits."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from normbench.errors import ConfigError, UnknownNameError
from normbench.models import MODELS, build_model
from normbench.norms import NORMS, WEIGHTS, make_norm

IMAGE_MODELS = [
    name for name, model in MODELS.items() if model.norm_family == "image" and model.task == "classification"
]
CASES = [pytest.param(name, marks=pytest.mark.slow) if name == "wrn28_10" else name for name in IMAGE_MODELS]
ALL_NORMS = [*NORMS, *(f"{base}+{weight}" for weight in WEIGHTS for base in ("bn", "gn"))]
KINDS = {"none", "bn", "gn", "ln_chw", "evonorm_s0", "frn", "ghost_bn", "gn+ws", "bn+wn"}
"""One norm for each way to ask something of a network: for statistics, groups, sizes, its activation, its weights."""
SMALL = "norm_resnet_small"
PAIRS = [
    pytest.param(
        model, norm, marks=[] if model == SMALL or (norm in KINDS and model != "wrn28_10") else pytest.mark.slow
    )
    for model in IMAGE_MODELS
    for norm in ALL_NORMS
]
SIBLINGS = {"norm_resnet": SMALL, "vgg_a": SMALL, "resnet18": "resnet9", "wrn28_10": "preact_resnet18"}
"""Models that consist of the same parts as others of fewer layers or channels."""
NORM_ACTS = [name for name, norm in NORMS.items() if norm.replaces_activation]


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_every_model_is_covered() -> None:
    """By this file or by one of its own."""
    assert set(MODELS) == {*IMAGE_MODELS, "vit", "stylenet"}


@pytest.mark.parametrize(("model", "norm"), PAIRS)
def test_every_model_takes_every_norm(model: str, norm: str) -> None:
    with torch.device("meta"):
        network = build_model(model, norm=make_norm(norm))
        assert network(torch.empty(2, 3, 32, 32)).shape == (2, 10)
    assert all(parameter.is_meta for parameter in network.parameters())


@pytest.mark.parametrize(("model", "norm"), [case for case in PAIRS if case.values[0] in (SMALL, "resnet9")])
def test_every_norm_trains(model: str, norm: str) -> None:
    """A plain and a residual net."""
    torch.manual_seed(0)
    network = build_model(model, norm=make_norm(norm))
    images = torch.rand(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    loss = nn.functional.cross_entropy(network.to(memory_format=torch.channels_last)(images), torch.tensor([1, 7]))
    loss.backward()
    assert loss.isfinite()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, f"{name} gets no gradient"
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("norm", "count"), [("bn", 1_557_066), ("ln", 1_557_066), ("gn", 1_557_066), ("in", 1_555_146)]
)
def test_norm_resnet_has_the_tutorials_parameter_counts(norm: str, count: int) -> None:
    with torch.device("meta"):
        assert num_parameters(build_model("norm_resnet", norm=make_norm(norm))) == count


@pytest.mark.parametrize(
    ("model", "count"),
    [("norm_resnet_small", 98_970), ("resnet18", 11_173_962), ("preact_resnet18", 11_172_170), ("resnet9", 6_573_120)],
)
def test_parameter_counts_with_bn(model: str, count: int) -> None:
    with torch.device("meta"):
        assert num_parameters(build_model(model, norm=make_norm("bn"))) == count


@pytest.mark.parametrize("norm", NORM_ACTS)
@pytest.mark.parametrize(
    ("model", "num_relus"),
    [("norm_resnet", 0), ("norm_resnet_small", 0), ("resnet18", 8), ("preact_resnet18", 0), ("resnet9", 0)],
)
def test_norms_with_their_own_activation_leave_no_relu_behind_them(norm: str, model: str, num_relus: int) -> None:
    """Only resnet18 keeps any: the one behind each of its eight additions."""
    with torch.device("meta"):
        network = build_model(model, norm=make_norm(norm))
    assert sum(isinstance(module, nn.ReLU) for module in network.modules()) == num_relus


@pytest.mark.parametrize("model", CASES)
def test_same_seed_gives_all_norms_the_same_convolution_weights(model: str) -> None:
    def conv_weights(norm: str) -> list[torch.Tensor]:
        torch.manual_seed(3)
        network = build_model(model, norm=make_norm(norm))
        return [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]

    for bn, gn in zip(conv_weights("bn"), conv_weights("gn"), strict=True):
        assert torch.equal(bn, gn)


def test_misspelt_model_and_option_are_named() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'resnet18'"):
        build_model("resnet8", norm=make_norm("bn"))
    with pytest.raises(UnknownNameError, match="width"):
        build_model("resnet9", norm=make_norm("bn"), width=2)


def test_groups_that_do_not_divide_a_models_channels_fail_at_construction() -> None:
    with pytest.raises(ConfigError, match="does not divide 64 channels"):
        build_model("resnet18", norm=make_norm("gn", groups=48))


def test_listing_models_does_not_import_torch() -> None:
    code = "import sys, normbench.models as m; assert m.MODELS; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("model", "norm"),
    [
        *(pytest.param(model, "gn", marks=pytest.mark.slow if model in SIBLINGS else []) for model in IMAGE_MODELS),
        ("vit", "ln"),
        ("stylenet", "in"),
    ],
)
def test_models_trace_into_one_graph(model: str, norm: str) -> None:
    """What torch.compile and CUDA graphs need: no break, no dependence on values."""
    torch.manual_seed(0)
    network = build_model(model, norm=MODELS[model].family.make(norm))
    images = torch.rand(2, 3, 32, 32)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), network(images))


@pytest.mark.parametrize("model", MODELS)
def test_models_keep_channels_last(model: str) -> None:
    network = build_model(model, norm=MODELS[model].family.make("bn")).to(memory_format=torch.channels_last)
    formats = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda _module, inputs, output: formats.append(
                    (inputs[0] if inputs[0].shape[1] > 3 else output).is_contiguous(memory_format=torch.channels_last)
                )
            )
    network(torch.rand(2, 3, 32, 32).contiguous(memory_format=torch.channels_last))
    assert all(formats)
