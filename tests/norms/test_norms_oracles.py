"""Against other people's layers: torch.nn, torchvision, and timm where its definition agrees.

Known differences of timm 1.0:

- Its EvoNorm and FRN take their statistics in float32 even for float64 input; hence the tolerance of 1e-6.
- `EvoNorm2dB0/B1/B2` keep the unbiased variance for evaluation, ours (and the authors') the biased one; the test
  converts. Their default eps is 1e-3, ours 1e-5; the test passes 1e-5.
- `EvoNorm2dS1/S2` need `act_layer=SiLU` (the default) and 32 groups unless told otherwise.
- `FilterResponseNormTlu2d` has eps 1e-5, the paper 1e-6, and never a learned eps.
- `StdConv2d` takes the biased variance with eps inside the root, ours (and the authors') the unbiased deviation with
  eps outside: they differ by the factor sqrt((n - 1) / n) for n weights a filter.
- `ScaledStdConv2d` adds its eps to the variance, ours bounds the variance from below; with eps tiny they agree.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from norm_cases import fill, images, relative_error
from torch import nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from normbench.norms import make_norm
from normbench.norms.weight_standardization import RELU_GAIN

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import timm.layers as timm_layers

C, SIZE = 8, 5
TIGHT = 1e-12
TIMM_FLOAT32 = 1e-6


def ours(name: str, **options: object) -> nn.Module:
    layer = make_norm(name, **options)(C, size=SIZE).double()  # type: ignore[arg-type]
    return fill(layer, torch.Generator().manual_seed(1))


def copy_parameters(source: nn.Module, target: nn.Module, **names: str) -> nn.Module:
    """Give `target` the parameters and buffers of `source`; `names` maps its names to those of `source`."""
    state = source.state_dict()
    target = target.double()
    with torch.no_grad():
        for key, tensor in target.state_dict().items():
            if names.get(key, key) in state:
                tensor.copy_(state[names.get(key, key)].reshape(tensor.shape))
    return target


def assert_agree(
    one: nn.Module, other: nn.Module, *, modes: tuple[bool, ...] = (True, True, False), tolerance: float = TIGHT
) -> None:
    """Equal output and gradients by the input and the parameters that both have, and equal running state after."""
    for seed, mode in enumerate(modes):
        results = []
        for module in (one.train(mode), other.train(mode)):
            module.zero_grad()
            x = images(6, C, SIZE, SIZE, seed=seed).requires_grad_()
            y = module(x)
            y.backward(images(*x.shape, seed=99))
            gradients = {f"gradient of {name}": parameter.grad for name, parameter in module.named_parameters()}
            results.append({"output": y.detach(), "x": x.grad, **gradients, **dict(module.named_buffers())})
        first, second = results
        for key in first.keys() & second.keys():
            assert relative_error(first[key], second[key].reshape(first[key].shape)) <= tolerance, key


@pytest.mark.parametrize("name", ["bn", "custom_bn"])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.3, "eps": 1e-3}], ids=["defaults", "options"])
def test_batch_norm_against_torch(name: str, options: dict[str, float]) -> None:
    layer = ours(name, **options)
    assert_agree(layer, copy_parameters(layer, nn.BatchNorm2d(C, **options)))


def test_batch_norm_without_running_statistics_against_torch() -> None:
    layer = ours("bn_nostats")
    assert_agree(layer, copy_parameters(layer, nn.BatchNorm2d(C, track_running_stats=False)))


def test_ghost_batch_norm_against_a_loop_over_chunks() -> None:
    layer = ours("ghost_bn", norm_batch_size=4, momentum=0.2)
    mean, variance = layer.running_mean.clone(), layer.running_var.clone()
    x = images(10, C, SIZE, SIZE)
    chunks = [F.batch_norm(chunk, mean, variance, layer.weight, layer.bias, True, 0.2) for chunk in x.split(4)]
    assert relative_error(layer(x), torch.cat(chunks)) <= TIGHT
    assert relative_error(layer.running_mean, mean) <= TIGHT
    assert relative_error(layer.running_var, variance) <= TIGHT


def test_frozen_batch_norm_against_torchvision_and_a_trained_batch_norm() -> None:
    trained = ours("bn")
    layer = make_norm("frozen_bn")(C).double()
    layer.load_state_dict(trained.state_dict())
    assert_agree(layer, copy_parameters(layer, FrozenBatchNorm2d(C)))
    assert_agree(layer, trained, modes=(False,))


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_group_norm_against_torch(groups: int) -> None:
    layer = ours("gn", groups=groups)
    assert_agree(layer, copy_parameters(layer, nn.GroupNorm(groups, C)))


@pytest.mark.parametrize("affine", [False, True])
def test_instance_norm_against_torch(affine: bool) -> None:
    layer = ours("in", affine=affine)
    assert_agree(layer, copy_parameters(layer, nn.InstanceNorm2d(C, affine=affine)))


def test_layer_norm_against_torch() -> None:
    layer = ours("ln_chw")
    assert_agree(layer, copy_parameters(layer, nn.LayerNorm([C, SIZE, SIZE])))


def test_local_response_norm_against_torch() -> None:
    assert_agree(ours("lrn"), nn.LocalResponseNorm(5))
    assert_agree(ours("lrn", size=4, alpha=0.5, beta=1.0, k=2.0), nn.LocalResponseNorm(4, 0.5, 1.0, 2.0))


class ChannelsLast(nn.Module):
    """A torch layer over the last axis, applied to the channels."""

    def __init__(self, layer: nn.Module, source: nn.Module) -> None:
        super().__init__()
        copy_parameters(source, layer)
        self.weight, self.bias, self._apply_to = layer.weight, getattr(layer, "bias", None), layer.forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._apply_to(x.movedim(1, -1)).movedim(-1, 1)


def test_channel_norms_against_torch() -> None:
    layer = ours("ln2d")
    assert_agree(layer, ChannelsLast(nn.LayerNorm(C, eps=1e-6), layer))
    layer = ours("rms2d")
    assert_agree(layer, ChannelsLast(nn.RMSNorm(C, eps=1e-6), layer))


def test_layer_norms_against_timm() -> None:
    for name, oracle in (
        ("ln", timm_layers.GroupNorm1(C)),
        ("ln2d", timm_layers.LayerNorm2d(C)),
        ("rms2d", timm_layers.RmsNorm2d(C)),
    ):
        layer = ours(name)
        assert_agree(layer, copy_parameters(layer, oracle))


def test_filter_response_norm_against_timm() -> None:
    layer = ours("frn", eps=1e-5)
    assert_agree(
        layer, copy_parameters(layer, timm_layers.FilterResponseNormTlu2d(C, eps=1e-5)), tolerance=TIMM_FLOAT32
    )


@pytest.mark.parametrize("version", ["S0", "S1", "S2"])
def test_evonorm_s_against_timm(version: str) -> None:
    layer = ours(f"evonorm_{version.lower()}", groups=2)
    oracle = getattr(timm_layers, f"EvoNorm2d{version}")(C, groups=2, eps=1e-5)
    assert_agree(layer, copy_parameters(layer, oracle, v="v1"), tolerance=TIMM_FLOAT32)


@pytest.mark.parametrize("version", ["B0", "B1", "B2"])
def test_evonorm_b_against_timm(version: str) -> None:
    layer = ours(f"evonorm_{version.lower()}", momentum=1.0)
    oracle = getattr(timm_layers, f"EvoNorm2d{version}")(C, momentum=1.0, eps=1e-5)
    copy_parameters(layer, oracle, v="v1")
    x = images(6, C, SIZE, SIZE)
    assert relative_error(layer(x), oracle(x)) <= TIMM_FLOAT32
    count = x.numel() // C
    assert relative_error(layer.running_var * count / (count - 1), oracle.running_var) <= TIMM_FLOAT32
    oracle.running_var.copy_(layer.running_var)
    assert_agree(layer, oracle, modes=(False,), tolerance=TIMM_FLOAT32)


def test_weight_standardization_against_timm() -> None:
    conv = make_norm("gn+ws").conv2d(3, 4, 3).double()
    oracle = timm_layers.StdConv2d(3, 4, 3, padding=0, eps=1e-14).double()
    oracle.load_state_dict(conv.state_dict())
    x, count = images(2, 3, 6, 6), 3 * 3 * 3
    expected = oracle(x) * ((count - 1) / count) ** 0.5
    conv.eps = 0.0  # the place of eps is the second difference
    assert relative_error(conv(x), expected) <= TIGHT


def test_scaled_weight_standardization_against_timm() -> None:
    conv = make_norm("none+sws").conv2d(3, 4, 3, bias=True).double()
    nn.init.uniform_(conv.gain, 0.5, 1.5)
    oracle = timm_layers.ScaledStdConv2d(3, 4, 3, padding=0, gamma=RELU_GAIN, eps=1e-14).double()
    oracle.load_state_dict({**conv.state_dict(), "gain": conv.gain.view(4, 1, 1, 1)})
    x = images(2, 3, 6, 6)
    assert relative_error(conv(x), oracle(x)) <= TIGHT
