"""FusedNormAct against the layers it wraps, with the kernels interpreted on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

from normbench.layers.norm_act import FusedNormAct, describe_paths, norm_paths
from normbench.norms import NORMS, make_norm

FUSED = ("bn", "bn_nostats", "ln", "in", "gn", "group_rms", "ln2d", "pono", "rms2d")
FUSED_BY_MOMENTS = ("ghost_bn", "brn", "sn", "bin", "ibn", "bcn")
FUSED_WITH_ACTIVATION = ("frn", "evonorm_s0", "evonorm_s1", "evonorm_s2", "evonorm_b0")


@pytest.fixture(autouse=True)
def _interpreted_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")


def build(name: str) -> FusedNormAct:
    """Build the norm for 12 channels with the activation that belongs to it, its parameters moved off their start."""
    torch.manual_seed(3)
    layer = make_norm(name)(12)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.2, 1.5)
    relu = None if NORMS[name].replaces_activation else nn.ReLU(inplace=NORMS[name].kind != "none")
    return FusedNormAct(layer, relu)


def images(requires_grad: bool = True) -> torch.Tensor:
    x = torch.randn(3, 12, 5, 4, generator=torch.Generator().manual_seed(5)) * 2 + 0.5
    return x.contiguous(memory_format=torch.channels_last).requires_grad_(requires_grad)


@pytest.mark.parametrize("name", FUSED + FUSED_BY_MOMENTS + FUSED_WITH_ACTIVATION)
def test_kernel_and_layers_agree(name: str) -> None:
    fused = build(name)
    native = nn.Sequential(*copy.deepcopy(fused))
    results = []
    for module in (fused, native):
        x = images()
        y = module(x)
        (y * y.detach().cos()).sum().backward()
        results.append([y, x.grad, *(p.grad for p in module.parameters()), *module.buffers()])
    assert fused.path == "fused"
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5)


def test_batch_norm_evaluates_with_its_running_statistics() -> None:
    fused = build("bn")
    fused(images())
    fused.eval()
    native = nn.Sequential(*copy.deepcopy(fused))
    with torch.no_grad():
        torch.testing.assert_close(fused(images(False)), native(images(False)), rtol=1e-5, atol=1e-5)
    assert fused.path == "fused"
    fused(images())
    assert fused.path == "native: no fused gradient through running statistics"


def test_the_catalog_says_which_norms_have_a_kernel() -> None:
    for name, norm in NORMS.items():
        if norm.kind != "none":
            assert isinstance(make_norm(name).norm_act(12, size=4), FusedNormAct) is norm.has_kernel, name


def test_frozen_batch_norm_has_a_gradient_through_its_statistics() -> None:
    fused = build("frozen_bn")
    native = nn.Sequential(*copy.deepcopy(fused))
    for x in (images(), images().to(torch.bfloat16)):
        y, expected = fused(x), native(x.float())
        assert fused.path == "fused"
        torch.testing.assert_close(y.float(), expected, rtol=2e-2, atol=2e-2)
        (actual,), (wanted,) = (torch.autograd.grad(out.float().square().sum(), x) for out in (y, expected))
        torch.testing.assert_close(actual, wanted, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", ["sn", "bin", "evonorm_b0"])
def test_mixtures_with_running_statistics_leave_gradients_to_the_layers(name: str) -> None:
    fused = build(name).eval()
    fused(images())
    assert fused.path == "native: no fused gradient through running statistics"
    with torch.no_grad():
        fused(images(False))
    assert fused.path == "fused"


def test_keys_are_those_of_a_sequential() -> None:
    layer = make_norm("bn")(4)
    assert FusedNormAct(layer, nn.ReLU()).state_dict().keys() == nn.Sequential(layer, nn.ReLU()).state_dict().keys()


@pytest.mark.parametrize("name", ["custom_bn", "none"])
def test_norms_without_a_kernel_run_as_they_are(name: str) -> None:
    fused = build(name)
    expected = nn.Sequential(*copy.deepcopy(fused))(images())
    torch.testing.assert_close(fused(images()), expected, rtol=0, atol=0)
    assert fused.path.startswith("native: no fused kernel for ")


def test_frn_with_a_learned_eps_keeps_its_gradient() -> None:
    layer = make_norm("frn", learnable_eps=True)(12)
    fused = FusedNormAct(layer)
    fused(images()).sum().backward()
    assert fused.path.startswith("native")
    assert layer.get_parameter("learned_eps").grad is not None


def test_a_hook_sees_the_layer() -> None:
    fused = build("gn")
    seen: list[torch.Size] = []
    handle = fused[0].register_forward_hook(lambda _module, _inputs, y: seen.append(y.shape))
    fused(images())
    assert seen == [images().shape]
    assert fused.path == "native: a hook watches the layer"
    handle.remove()
    fused(images())
    assert fused.path == "fused"


def test_without_a_gpu_the_layers_run_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    fused = build("gn")
    fused(images())
    assert norm_paths(nn.Sequential(fused)) == {"0": "native: no fused kernels on cpu"}


def test_a_model_says_how_its_norms_ran() -> None:
    assert describe_paths(nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU())) == "native: no fused kernel for this norm"
    model = nn.Sequential(build("gn"), build("gn"))
    model(images())
    assert describe_paths(model) == "fused"
    factory = make_norm("evonorm_s0")
    model = nn.Sequential(factory.norm_act(12), factory.norm_act(12), factory.norm_only(12))
    model(images())
    reason = "native: no fused kernel for EvoNormS without its activation"
    assert describe_paths(model) == f"fused (2 layers); {reason} (1 layer)"
