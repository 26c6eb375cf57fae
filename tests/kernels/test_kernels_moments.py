"""Norms by several statistics: the kernels, interpreted on the CPU, against the layers' own formulas in float64.

The layers themselves are held against their papers' formulas in NumPy (`tests/norms/test_norms_reference.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

from normbench.kernels import MomentsSpec, norm_act, tiling, unsupported_reason
from normbench.kernels.support import switched_off
from normbench.layers.norm_act import FusedNormAct
from normbench.norms import NORMS, make_norm

CASES: dict[str, dict[str, Any]] = {
    "ghost_bn": {"norm_batch_size": 2},
    "brn": {},
    "frozen_bn": {},
    "sn": {},
    "bin": {},
    "ibn": {"ratio": 0.3},
    "bcn": {},
    "evonorm_b0": {},
    "evonorm_b1": {},
    "evonorm_b2": {},
}
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *CASES.items(),
    ("ghost_bn", {"norm_batch_size": 3, "momentum": 0.3}),
    ("ghost_bn", {"affine": False}),
    ("brn", {"affine": False, "r_max": 1.5}),
    ("sn", {"use_bn": False}),
    ("sn", {"affine": False}),
    ("bin", {"affine": False}),
    ("bcn", {"groups": 1}),
    ("bcn", {"group_size": 3}),
]
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
WAYS = {
    "as it comes": {"PROGRAMS": 2},
    "samples in turn": {"MOMENTS_TILE": 128, "PROGRAMS": 2, "MERGED_BY_EACH": 0},
    "rows shared": {"MOMENTS_TILE": 64, "PROGRAMS": 6, "MERGE_TILE": 64},
}
"""Constants of the tiling, so that few programs, which are slow to interpret, take small inputs as many take large."""


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """Fill what torch.empty returns with NaN, so that an element no program writes shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


FAST = {
    "as it comes": ("ghost_bn", "brn", "sn", "bin", "bcn", "evonorm_b0"),
    "rows shared": ("ghost_bn", "sn", "bcn", "evonorm_b1"),
    "samples in turn": (),
}
"""Norms of which one case runs in the fast tests; interpreting all of them takes half a minute."""


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Cut small inputs the way that large ones are."""
    for constant, value in WAYS[request.param].items():
        monkeypatch.setattr(tiling, constant, value)
    return str(request.param)


def build(name: str, options: dict[str, Any], channels: int, size: tuple[int, ...] | None = None) -> FusedNormAct:
    """Build a norm with the activation that belongs to it, in a state that it could have in training."""
    generator = torch.Generator().manual_seed(1)
    layer = make_norm(name, **options)(channels, size=size)
    with torch.no_grad():
        for key, tensor in layer.state_dict().items():
            if key == "r_limit":
                tensor.fill_(1.3)
            elif key == "d_limit":
                tensor.fill_(0.2)
            elif not key.endswith("num_batches_tracked"):
                low = -0.5 if key.rpartition(".")[2] in ("bias", "group_bias", "running_mean", "mean_logits") else 0.4
                tensor.copy_(low + torch.rand(tensor.shape, generator=generator))
    return FusedNormAct(layer, None if NORMS[name].replaces_activation else nn.ReLU())


def images(shape: tuple[int, ...], dtype: torch.dtype, *, channels_last: bool, shift: float = 0.3) -> torch.Tensor:
    """Draw images whose channels and samples differ in mean and scale."""
    generator = torch.Generator().manual_seed(sum(shape))

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    samples, channels = shape[:2]
    scale = 0.5 + normal(1, channels, 1, 1).abs() + normal(samples, 1, 1, 1).abs()
    x = (normal(*shape) * scale + normal(1, channels, 1, 1) + 0.5 * normal(samples, 1, 1, 1) + shift).to(dtype)
    return x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def results(
    module: nn.Module, x: torch.Tensor, grad: torch.Tensor, *, differentiate: bool = True
) -> dict[str, torch.Tensor]:
    """Return the output, all gradients, and all buffers afterwards."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_(differentiate)
    with torch.set_grad_enabled(differentiate):
        y = module(x)
    found = {"y": y.detach()}
    if differentiate:
        parameters = dict(module.named_parameters())
        found |= dict(
            zip(["x", *parameters], torch.autograd.grad(y, [x, *parameters.values()], grad.to(y)), strict=True)
        )
    return found | {name: buffer.clone() for name, buffer in module.named_buffers()}


def assert_matches(
    fused: FusedNormAct, x: torch.Tensor, *, differentiate: bool = True, tolerance: float | None = None
) -> None:
    """Hold the kernels against the layers in float64: output, gradients and running statistics."""
    plain, formula = copy.deepcopy(fused), copy.deepcopy(fused).double()
    wide = x.detach().double()
    grad = _settled(copy.deepcopy(formula), wide, x.dtype)
    torch.use_deterministic_algorithms(False)  # for which torch's local response normalization has no gradient
    with switched_off():
        expected = results(formula, wide, grad, differentiate=differentiate)
    torch.use_deterministic_algorithms(True)
    actual = results(fused, x, grad.to(x), differentiate=differentiate)
    assert fused.path == "fused"
    assert actual["y"].dtype == x.dtype
    assert actual["y"].stride() == x.stride()
    allowed = tolerance or TOLERANCE[x.dtype]
    errors = {key: error for key, error in _errors(actual, expected).items() if not error < allowed}
    if (
        errors and x.dtype == torch.float32
    ):  # sums that all but cancel, as of groups of two values, lose digits in torch too
        with switched_off():
            rounded = _errors(results(plain, x, grad.to(x), differentiate=differentiate), expected)
        errors = {key: error for key, error in errors.items() if not error < 5 * rounded[key]}
    assert not errors


def _errors(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    return {
        key: ((actual[key].double() - value.double()).norm() / value.double().norm().clamp(min=1e-2)).item()
        for key, value in expected.items()
    }


def _settled(formula: FusedNormAct, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Draw an output gradient in `dtype`, 0 for the elements whose side of a kink rounding may decide."""
    grad = torch.randn(x.shape, generator=torch.Generator(x.device).manual_seed(9), device=x.device).to(dtype).double()
    with torch.no_grad(), switched_off():
        above, below = (_side(formula[0], x + step * x.abs()) for step in (1e-5, -1e-5))
    return grad.masked_fill(above != below, 0.0)


def _side(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return where ReLU passes the layer's output or, of EvoNorm-B, where the statistic of the sample decides."""
    layer = copy.deepcopy(layer)
    if not hasattr(layer, "version"):
        return layer(x) > 0
    spread, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
    batch = x.transpose(0, 1).flatten(1).var(1, correction=0) if layer.training else layer.running_var
    deviation = (spread + layer.eps).sqrt()
    rms = (spread + mean.square() + layer.eps).sqrt()
    v1 = 1.0 if layer.v1 is None else layer.v1[:, None, None]
    other = {0: v1 * x + deviation, 1: (x + 1) * rms, 2: rms - x}[layer.version]
    return other > (batch + layer.eps).sqrt()[:, None, None]


def test_ways_are_what_they_say(way: str) -> None:
    chosen = tiling.tile_moments(3, 20, 6, 6, None)
    assert (chosen.one_tile, chosen.row_chunks > 1, chosen.block_s > 1) == {
        "as it comes": (True, False, True),
        "samples in turn": (False, False, False),
        "rows shared": (False, True, False),
    }[way]


def cases() -> Iterator[Any]:
    """Yield all norms and options in all ways; those that are not fast are slow."""
    for way, fast in FAST.items():
        for name, options in OPTIONS:
            marks = [] if name in fast and options is CASES[name] else [pytest.mark.slow]
            yield pytest.param(way, name, options, marks=marks, id=f"{way}-{name}-{options}")


@pytest.mark.parametrize(("way", "name", "options"), list(cases()), indirect=["way"])
def test_output_gradients_and_running_state_match_the_formula(name: str, options: dict[str, Any], way: str) -> None:
    assert_matches(build(name, options, 6), images((3, 6, 5, 4), torch.float32, channels_last=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["ghost_bn", "evonorm_b2", *(pytest.param(n, marks=pytest.mark.slow) for n in CASES)])
def test_contiguous_inputs_in_half_precision_keep_float32_statistics(name: str, dtype: torch.dtype) -> None:
    assert_matches(build(name, CASES[name], 6), images((3, 6, 5, 4), dtype, channels_last=False))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4, 6, 1, 1), (1, 6, 3, 3), (4, 37, 3, 1), (5, 2, 4, 3)], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_few_samples_pixels_and_channels(name: str, shape: tuple[int, ...]) -> None:
    module = build(name, {}, max(shape[1], 2) if name == "ibn" else shape[1])
    x = images(
        (shape[0], module[0].num_channels if name == "ibn" else shape[1], *shape[2:]), torch.float32, channels_last=True
    )
    if unsupported_reason(x, module.spec) == "statistics of a single value":
        with pytest.raises(ValueError, match="single value"):
            module(x)
    else:
        assert_matches(module, x)


@pytest.mark.parametrize("name", ["brn", *(pytest.param(n, marks=pytest.mark.slow) for n in CASES)])
def test_evaluation_takes_the_running_statistics_and_leaves_them_alone(name: str) -> None:
    module = build(name, CASES[name], 6).eval()
    before = copy.deepcopy(module.state_dict())
    assert_matches(module, images((3, 6, 5, 4), torch.float32, channels_last=True), differentiate=False)
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name != "frozen_bn"])
def test_variance_survives_a_mean_a_thousand_times_the_deviation(name: str, way: str) -> None:
    """A one-pass E[x^2] - E[x]^2 in float32 would lose the variance here."""
    x = images((3, 6, 5, 4), torch.float32, channels_last=True, shift=1000.0)
    assert_matches(build(name, CASES[name], 6), x, tolerance=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_results_are_the_same_bits_in_every_run(name: str) -> None:
    x = images((3, 6, 5, 4), torch.bfloat16, channels_last=True)
    first, second = (results(build(name, {}, 6), x, torch.ones_like(x)) for _ in range(2))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_statistics_of_a_single_value_and_missing_running_statistics_are_refused() -> None:
    x = torch.randn(3, 4, 1, 1)
    assert unsupported_reason(x, MomentsSpec(formula="batch_instance", sub_batch=2)) == "statistics of a single value"
    assert unsupported_reason(x, MomentsSpec(formula="batch_instance", sub_batch=3)) is None
    assert unsupported_reason(x, MomentsSpec(formula="batch_group", groups=4)) == "statistics of a single value"
    assert "do not divide" in (unsupported_reason(x, MomentsSpec(formula="batch_group", groups=3)) or "")
    with pytest.raises(ValueError, match="needs running statistics"):
        norm_act(x, MomentsSpec(formula="batch_instance", renorm=True))
    with pytest.raises(ValueError, match="no gradient"):
        norm_act(
            x.requires_grad_(), MomentsSpec(formula="switch"), running_mean=torch.zeros(4), running_var=torch.ones(4),
            use_running=True,
        )  # fmt: skip
