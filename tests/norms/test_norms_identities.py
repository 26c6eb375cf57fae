"""Where two norms, or a norm and itself on another input, must agree."""

from __future__ import annotations

import copy

import pytest
import torch
from norm_cases import images, relative_error
from torch import nn

from normbench.norms import NORMS, make_norm

C, SIZE = 8, 5
TIGHT = 1e-12


def layer(name: str, **options: object) -> nn.Module:
    return make_norm(name, **options)(C, size=SIZE).double()  # type: ignore[arg-type]


def assert_same(
    one: nn.Module, other: nn.Module, *, samples: int = 6, steps: int = 1, tolerance: float = TIGHT
) -> None:
    """Equal output and input gradient in training, over some steps, and then in evaluation."""
    for seed in range(steps):
        outputs = []
        for module in (one, other):
            x = images(samples, C, SIZE, SIZE, seed=seed).requires_grad_()
            y = module(x)
            (gradient,) = torch.autograd.grad(y, x, images(*x.shape, seed=99))
            outputs.append((y.detach(), gradient))
        for actual, expected in zip(*outputs, strict=True):
            assert relative_error(actual, expected) <= tolerance
    one.eval()
    other.eval()
    x = images(samples, C, SIZE, SIZE, seed=50)
    assert relative_error(one(x), other(x)) <= tolerance


def set_logits(module: nn.Module, kind: int) -> nn.Module:
    with torch.no_grad():
        for logits in (module.mean_logits, module.variance_logits):
            logits.fill_(-1000)
            logits[kind] = 0
    return module


def test_one_group_is_layer_norm() -> None:
    assert_same(layer("gn", groups=1), layer("ln"))


def test_layer_norm_per_element_starts_as_layer_norm_per_channel() -> None:
    assert_same(layer("ln_chw"), layer("ln"))


def test_a_group_for_each_channel_is_instance_norm() -> None:
    assert_same(layer("gn", groups=C), layer("in", affine=True))


def test_group_size_and_groups_are_two_names_for_one_thing() -> None:
    assert_same(layer("gn", group_size=2), layer("gn", groups=4))


def test_batch_norm_of_one_image_is_instance_norm_in_training() -> None:
    x = images(1, C, SIZE, SIZE)
    assert relative_error(layer("bn")(x), layer("in")(x)) <= TIGHT


def test_batch_renorm_at_the_start_is_batch_norm_in_training() -> None:
    x = images(6, C, SIZE, SIZE)
    assert relative_error(layer("brn", eps=1e-5)(x), layer("bn")(x)) <= TIGHT


def test_batch_renorm_without_limits_is_evaluation_in_training() -> None:
    """With limits out of reach, r and d turn the batch statistics into the running ones."""
    module = layer("brn")
    for seed in range(3):
        module(images(6, C, SIZE, SIZE, seed=seed))
    module.r_limit.fill_(1e6)
    module.d_limit.fill_(1e6)
    x = images(6, C, SIZE, SIZE, seed=7)
    expected = module.eval()(x)
    assert relative_error(module.train()(x), expected) <= TIGHT


def test_ghost_batch_norm_of_one_chunk_is_batch_norm() -> None:
    assert_same(layer("ghost_bn", norm_batch_size=6), layer("bn"), steps=3)
    assert_same(layer("ghost_bn", norm_batch_size=64), layer("bn"), steps=3)


def test_ghost_batch_norm_of_single_samples_is_instance_norm_in_training() -> None:
    x = images(6, C, SIZE, SIZE)
    assert relative_error(layer("ghost_bn", norm_batch_size=1)(x), layer("in")(x)) <= TIGHT


@pytest.mark.parametrize(("kind", "name"), [(0, "in"), (1, "ln"), (2, "bn")])
def test_switchable_norm_with_one_kind_is_that_norm(kind: int, name: str) -> None:
    assert_same(set_logits(layer("sn"), kind), layer(name), steps=3)


@pytest.mark.parametrize(("kind", "name"), [(0, "in"), (1, "ln")])
def test_switchable_norm_without_batch_statistics(kind: int, name: str) -> None:
    assert_same(set_logits(layer("sn", use_bn=False), kind), layer(name))


def test_batch_instance_norm_with_open_gates_is_batch_norm_and_with_closed_ones_instance_norm() -> None:
    assert_same(layer("bin"), layer("bn"), steps=3)
    closed = layer("bin")
    nn.init.zeros_(closed.gate)
    assert_same(closed, layer("in"), steps=3)


def test_ibn_is_instance_norm_of_the_first_channels_and_batch_norm_of_the_rest() -> None:
    x = images(6, C, SIZE, SIZE)
    module = layer("ibn", ratio=0.25)
    assert relative_error(module(x)[:, :2], layer("in")(x)[:, :2]) <= TIGHT
    assert relative_error(module(x)[:, 2:], layer("bn")(x)[:, 2:]) <= TIGHT


def test_batch_channel_norm_is_group_norm_of_batch_norm() -> None:
    assert_same(layer("bcn", groups=2), nn.Sequential(layer("bn"), layer("gn", groups=2)), steps=3)


def test_custom_batch_norm_is_batch_norm() -> None:
    assert_same(layer("custom_bn"), layer("bn"), steps=3)


def test_positional_norm_is_channel_layer_norm_without_parameters() -> None:
    assert_same(layer("pono"), layer("ln2d", eps=1e-5))


def test_group_rms_of_centered_groups_is_group_norm() -> None:
    x = images(6, C, SIZE, SIZE)
    grouped = x.unflatten(1, (2, -1))
    x = (grouped - grouped.mean((2, 3, 4), keepdim=True)).flatten(1, 2)
    assert relative_error(layer("group_rms", groups=2)(x), layer("gn", groups=2)(x)) <= TIGHT


def test_evonorm_s2_of_one_group_divides_silu_by_the_rms_of_the_image() -> None:
    x = images(6, C, SIZE, SIZE)
    expected = nn.functional.silu(x) * layer("group_rms", groups=1)(x) / x
    assert relative_error(layer("evonorm_s2", groups=1)(x), expected) <= TIGHT


@pytest.mark.parametrize("name", [name for name, norm in NORMS.items() if norm.replaces_activation])
def test_norm_only_leaves_out_the_activation(name: str) -> None:
    """FRN keeps its normalization and loses the threshold; EvoNorm keeps scale and shift alone."""
    x = images(6, C, SIZE, SIZE)
    module = make_norm(name).norm_only(C, size=SIZE).double()
    expected = x / (x.square().mean((2, 3), keepdim=True) + 1e-6).sqrt() if name == "frn" else x
    assert relative_error(module(x), expected) <= TIGHT
    assert module(-x).min() < 0


# What a norm does not see: each change of the input, and exactly the norms that undo it.
BLIND = {
    "scale and shift of each channel": {"bn", "bn_nostats", "custom_bn", "brn", "ghost_bn", "in", "bin", "ibn", "bcn"},
    "scale and shift of each image": {"ln", "ln_chw", "ln2d", "pono", "in", "gn"},
    "scale of each image": {"ln", "ln_chw", "ln2d", "pono", "in", "gn", "rms2d", "group_rms", "frn"},
    "scale and shift of each group of an image": {"in", "gn"},
}


@pytest.mark.parametrize("change", BLIND)
@pytest.mark.parametrize("name", [name for name, norm in NORMS.items() if "eps" in norm.options])
def test_invariances(name: str, change: str) -> None:
    module = layer(name, eps=1e-14)  # so small that it does not matter
    x = images(4, C, SIZE, SIZE)
    unit = {"channel": (1, C, 1, 1), "image": (4, 1, 1, 1), "group of an image": (4, 4, 1, 1)}[
        change.partition("each ")[2]
    ]
    scale, shift = (images(*unit, seed=seed).repeat_interleave(C // 4 if unit[1] == 4 else 1, 1) for seed in (3, 4))
    changed = x * (scale.abs() + 0.5) + (shift if "shift" in change else 0)
    blind = relative_error(module(changed), module(x)) <= 1e-9
    assert blind is (name in BLIND[change])


@pytest.mark.parametrize("groups", [1, 4, 64], ids=lambda groups: f"{64 // groups} channels a group")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_gn_in_bf16_is_that_of_float64_to_one_rounding(groups: int, layout: torch.memory_format) -> None:
    """By whichever of torch's paths; the mean is far from 0, where statistics in bf16 would be worthless."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(4, 64, 6, 6, generator=generator) + 20).bfloat16().contiguous(memory_format=layout)
    layer = make_norm("gn", groups=groups)(64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn(64, generator=generator))
    exact = copy.deepcopy(layer).double()
    ours, theirs = x.requires_grad_(), x.detach().double().requires_grad_()
    y, expected = layer(ours), exact(theirs)
    grad = torch.randn(y.shape, generator=generator).bfloat16()
    y.backward(grad)
    expected.backward(grad.double())
    pairs = [(y, expected), (ours.grad, theirs.grad)]
    pairs += [(a.grad, b.grad) for a, b in zip(layer.parameters(), exact.parameters(), strict=True)]
    for found, wanted in pairs:
        assert found is not None
        torch.testing.assert_close(found.double(), wanted, rtol=2.0**-8, atol=1e-3)
