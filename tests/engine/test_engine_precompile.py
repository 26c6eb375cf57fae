"""A dry run of a network finds the layers that have kernels, and leaves the network alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

from normbench import make_norm
from normbench.engine.precompile import dry_run
from normbench.kernels.launch import Compilation
from normbench.layers.max_pool2d import MaxPool2d
from normbench.layers.norm_act import norm_paths
from normbench.layers.pooled_linear import PooledLinear
from normbench.layers.whitening import WhiteningGelu

pytestmark = pytest.mark.usefixtures("interpreted_on_poisoned_memory")


def num_launches(model: nn.Module, images: torch.Tensor, dtype: torch.dtype | None = None) -> int:
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        return len(dry_run(model, images).launches())


def test_every_layer_with_a_kernel_has_launches_and_equal_ones_share_them() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3), make_norm("bn").norm_act(12), nn.Conv2d(12, 12, 3), make_norm("frn").norm_act(12),
        make_norm("ghost_bn", norm_batch_size=2).norm_act(12), make_norm("custom_bn").norm_act(12),
    )  # fmt: skip
    images = torch.zeros(2, 3, 8, 8)
    assert num_launches(model, images) == 3
    twice = nn.Sequential(*(make_norm("gn").norm_act(12) for _ in range(2)))
    assert num_launches(twice, torch.zeros(2, 12, 4, 4)) == 1
    images = images.contiguous(memory_format=torch.channels_last)
    stem = make_norm("bn").conv2d(3, 3, 3, padding=1)
    # Of both convolutions one: the input of the second has a gradient.
    assert num_launches(nn.Sequential(stem, stem, *model), images, torch.bfloat16) == 4
    assert num_launches(nn.Sequential(stem, PooledLinear(3, 10)), images, torch.bfloat16) == 2
    assert num_launches(nn.Sequential(stem, PooledLinear(3, 10)), images) == 0  # those two need 16 bits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        launches = dry_run(nn.Sequential(WhiteningGelu(3), MaxPool2d()), images).launches()
    assert len(launches) == 2
    for launch in launches.values():
        launch()  # a compilation would pass over what it raises


def test_a_dry_run_runs_no_kernel_and_leaves_the_model_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(make_norm("bn").norm_act(4), make_norm("gn").norm_act(4))
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(2, 4, 3, 3)
    expected = nn.Sequential(*(layer for block in copy.deepcopy(model) for layer in block))(images)
    run = dry_run(model, images)
    torch.testing.assert_close(run.output, expected, rtol=0, atol=0)
    assert set(norm_paths(model).values()) == {"native: not run yet"}
    with Compilation(max_workers=1) as compilation:
        compilation.add(run.launches((2, 1)))
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    model(images)
    assert set(norm_paths(model).values()) == {"fused"}


def test_a_dry_run_with_backward_leaves_no_gradients() -> None:
    model = nn.Sequential(make_norm("bn").norm_act(4), make_norm("gn").norm_act(4))
    before = copy.deepcopy(model.state_dict())
    run = dry_run(model, torch.randn(2, 4, 3, 3), backward=True)
    assert all(layer[0].weight.grad is not None for layer, _ in run.inputs)  # the copy's
    assert all(parameter.grad is None for parameter in model.parameters())
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
