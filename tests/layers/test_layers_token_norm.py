"""Norms of token sequences in the kernels of image norms, against torch's own operations in float64."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

from normbench.engine.precompile import dry_run
from normbench.kernels.launch import Compilation
from normbench.layers.norm_act import TokenNorm, describe_paths
from normbench.norms import SEQUENCE_NORMS, make_sequence_norm

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
FUSED = pytest.mark.parametrize("name", [n for n in SEQUENCE_NORMS if isinstance(make_sequence_norm(n)(8), TokenNorm)])


@pytest.fixture(autouse=True)
def _interpreted_on_poisoned_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if "cuda" not in request.node.name:
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def build(name: str, features: int) -> nn.Module:
    layer = make_sequence_norm(name)(features)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return layer


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 1.5 + 0.3


def results(layer: nn.Module, x: Tensor, grad: Tensor) -> dict[str, Tensor]:
    x = x.detach().clone().requires_grad_()
    y = layer(x)
    y.backward(grad.to(y))
    gradients = {f"gradient of {name}": parameter.grad for name, parameter in layer.named_parameters()}
    return {"y": y.detach(), "dx": x.grad, **gradients, **dict(layer.named_buffers())}


@DEVICES
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@FUSED
def test_the_kernel_computes_what_the_layer_does(name: str, dtype: torch.dtype, device: str) -> None:
    layer = build(name, 10)
    exact = copy.deepcopy(layer).double()
    x, grad = tokens(3, 7, 10).to(dtype), tokens(3, 7, 10, seed=2).to(dtype)
    actual = results(layer.to(device), x.to(device), grad.to(device))
    expected = results(exact, x.double(), grad.double())
    assert layer.path == "fused"
    assert exact.path.startswith("native: no fused kernels")
    assert actual["y"].dtype == dtype
    assert actual["y"].is_contiguous()
    for key, value in expected.items():
        error = ((actual[key].cpu().double() - value).double().norm() / value.double().norm()).item()
        assert error < TOLERANCE[dtype], (key, error)


@DEVICES
@FUSED
def test_evaluation_matches_too(name: str, device: str) -> None:
    layer = build(name, 24)
    layer(tokens(4, 5, 24))
    layer.eval()
    x = tokens(2, 9, 24, seed=3)
    with torch.no_grad():
        y, expected = copy.deepcopy(layer).to(device)(x.to(device)), layer.double()(x.double())
    torch.testing.assert_close(y.cpu().double(), expected, rtol=1e-5, atol=1e-5)


@FUSED
def test_all_that_is_launched_is_compiled_ahead(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.interpreter import InterpretedFunction

    seen: dict[bool, set[object]] = {True: set(), False: set()}
    run = InterpretedFunction.run

    def record(self: Any, *arguments: Any, grid: Any, warmup: bool, **settings: Any) -> Any:
        facts = [a.dtype if isinstance(a, Tensor) else (a == 1, a % 16 == 0) if isinstance(a, int) else type(a)
                 for a in arguments]  # fmt: skip
        seen[warmup].add((self.fn.__name__, *facts, *settings.items()))
        return run(self, *arguments, grid=grid, warmup=warmup, **settings)

    monkeypatch.setattr(InterpretedFunction, "run", record)
    model = nn.Sequential(build(name, 10), build(name, 10))
    launches = dry_run(model, tokens(2, 7, 10)).launches((4, 3))
    assert len(launches) == 1  # both layers share them
    with Compilation(max_workers=1) as compilation:
        compilation.add(launches)
    assert not seen[False]
    for size in (4, 3):
        results(model, tokens(size, 7, 10), tokens(size, 7, 10))
    assert seen[False]
    assert seen[False] <= seen[True]


def test_what_no_kernel_takes_runs_natively_and_says_so() -> None:
    layer = build("ln", 10)
    layer(tokens(3, 7, 20)[..., ::2])
    assert describe_paths(layer) == "native: input is neither contiguous nor channels_last"
    with pytest.raises(ValueError, match="single value"):
        build("ln", 1)(tokens(2, 3, 1))
