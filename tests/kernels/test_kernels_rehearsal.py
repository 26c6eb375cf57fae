"""What a network's rehearsal finds: the layers that will want kernels, and nothing of it shows."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

from normbench import make_norm
from normbench.engine.precompile import rehearse
from normbench.kernels.launch import Compilation, compile_all, launch
from normbench.layers.norm_act import norm_paths
from normbench.layers.pooled_linear import PooledLinear


def num_jobs(model: nn.Module, images: torch.Tensor, dtype: torch.dtype | None = None) -> int:
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        return len(rehearse(model, images).kernel_jobs())


def test_every_layer_with_a_kernel_has_a_job_and_equal_ones_have_one() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3), make_norm("bn").norm_act(12), nn.Conv2d(12, 12, 3), make_norm("frn").norm_act(12),
        make_norm("ghost_bn", norm_batch_size=2).norm_act(12),
    )  # fmt: skip
    images = torch.zeros(2, 3, 8, 8)
    assert num_jobs(model, images) == 2
    twice = nn.Sequential(*(make_norm("gn").norm_act(12) for _ in range(2)))
    assert num_jobs(twice, torch.zeros(2, 12, 4, 4)) == 1
    images = images.contiguous(memory_format=torch.channels_last)
    stem = make_norm("bn").conv2d(3, 3, 3, padding=1)
    # Of both convolutions one: the input of the second has a gradient.
    assert num_jobs(nn.Sequential(stem, stem, *model), images, torch.bfloat16) == 3
    assert num_jobs(nn.Sequential(stem, PooledLinear(3, 10)), images, torch.bfloat16) == 2
    assert num_jobs(nn.Sequential(stem, PooledLinear(3, 10)), images) == 0  # those two need 16 bits


def test_a_rehearsal_runs_no_kernel_and_leaves_the_model_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(make_norm("bn").norm_act(4), make_norm("gn").norm_act(4))
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(2, 4, 3, 3)
    expected = nn.Sequential(*(layer for block in copy.deepcopy(model) for layer in block))(images)
    rehearsal = rehearse(model, images)
    torch.testing.assert_close(rehearsal.output, expected, rtol=0, atol=0)
    assert set(norm_paths(model).values()) == {"native: not run yet"}
    compile_all(rehearsal.kernel_jobs((2, 1)), max_workers=1)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    model(images)
    assert set(norm_paths(model).values()) == {"fused"}


def test_a_job_that_fails_leaves_the_others_alone() -> None:
    compiled = []

    class Kernel:
        def warmup(self, *arguments: object, **settings: object) -> None:
            compiled.append((arguments, settings))

    def fail() -> None:
        raise RuntimeError("out of shared memory")

    compile_all({"bad": fail, "good": lambda: launch(Kernel(), (3,), 1, BLOCK=2)}, max_workers=1)
    assert compiled == [((1,), {"grid": (3,), "BLOCK": 2})]


def test_equal_jobs_are_compiled_once() -> None:
    compiled = []
    with Compilation(max_workers=1) as compilation:
        compilation.add({"a": lambda: compiled.append("a"), "b": lambda: compiled.append("b")})
        compilation.add({"b": lambda: compiled.append("b again"), "c": lambda: compiled.append("c")})
    assert sorted(compiled) == ["a", "b", "c"]


def test_launches_for_which_triton_compiles_the_same_are_compiled_once() -> None:
    compiled = []

    class Kernel:
        def warmup(self, *arguments: object, **settings: object) -> None:
            compiled.append((*arguments[1:], settings["BLOCK"]))

    kernel, half, single = Kernel(), torch.zeros(8, dtype=torch.bfloat16), torch.zeros(8)

    def job() -> None:
        for grid, tensor, count, block in [
            (3, half, 32, 2),
            (9, half, 64, 2),  # another grid, another multiple of 16
            (3, half, 33, 2),  # no multiple
            (3, half, 1, 2),
            (3, single, 32, 2),
            (3, half[1:], 32, 2),  # an address that is no multiple
            (3, half, 32, 4),
            (3, half, None, 2),
        ]:
            launch(kernel, (grid,), tensor, count, BLOCK=block)

    compile_all({"once": job, "again": job}, max_workers=1)
    assert compiled == [(32, 2), (33, 2), (1, 2), (32, 2), (32, 2), (32, 4), (None, 2)]


def test_a_rehearsal_there_and_back_leaves_no_gradients() -> None:
    model = nn.Sequential(make_norm("bn").norm_act(4), make_norm("gn").norm_act(4))
    before = copy.deepcopy(model.state_dict())
    rehearsal = rehearse(model, torch.randn(2, 4, 3, 3), backward=True)
    assert all(layer[0].weight.grad is not None for layer, _ in rehearsal.inputs)  # the copy's
    assert all(parameter.grad is None for parameter in model.parameters())
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
