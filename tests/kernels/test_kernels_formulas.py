"""The kernels, interpreted on the CPU, against their formulas in float64, on memory filled with NaN beforehand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

from normbench.kernels import NormActSpec, norm_act, reference, tiling, unsupported_reason

LN = NormActSpec(scope="sample", groups=1)
BN = NormActSpec(scope="batch")
FRN = NormActSpec(scope="sample", groups=16, centered=False, activation="tlu", eps=1e-6)
EVONORM_S0 = NormActSpec(scope="sample", groups=4, activation="swish")
EVONORM_S2 = NormActSpec(scope="sample", groups=4, centered=False, activation="swish")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
FORMATS = pytest.mark.parametrize("channels_last", [True, False], ids=["channels_last", "contiguous"])


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """Fill what torch.empty returns with NaN, so that an element no program writes shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


def random_case(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    *,
    channels_last: bool = True,
    learned: str = "weight bias",
    shift: float = 0.3,
) -> tuple[torch.Tensor, list[torch.Tensor | None], torch.Tensor]:
    """Draw an input, its parameters (weight, bias, extra) and an output gradient."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = (torch.randn(shape, generator=generator) * 1.5 + shift).to(dtype)
    grad = torch.randn(shape, generator=generator).to(dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    parameters = [
        torch.randn(shape[1], generator=generator) * 0.5 + 0.7 if name in learned.split() else None
        for name in ("weight", "bias", "extra")
    ]
    return x, parameters, grad


def outputs_and_gradients(
    function: Any, x: torch.Tensor, spec: NormActSpec, parameters: list[torch.Tensor | None], grad: torch.Tensor
) -> list[torch.Tensor]:
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    leaves = [None if p is None else p.detach().clone().requires_grad_() for p in parameters]
    y = function(x, spec, *leaves)
    y.backward(grad.to(y.dtype))
    return [y.detach(), *(leaf.grad for leaf in (x, *leaves) if leaf is not None)]


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual.double() - expected).norm() / expected.norm()).item()


def assert_matches_formula(
    x: torch.Tensor, spec: NormActSpec, parameters: list[torch.Tensor | None], grad: torch.Tensor
) -> None:
    assert unsupported_reason(x, spec) is None
    grad = reference.settled_gradient(grad, x, spec, *parameters)
    actual = outputs_and_gradients(norm_act, x, spec, parameters, grad)
    wide = [None if p is None else p.double() for p in parameters]
    expected = outputs_and_gradients(reference.norm_act, x.double(), spec, wide, grad.double())
    names = [
        "y",
        "dx",
        *(f"d{name}" for name, p in zip(("weight", "bias", "extra"), parameters, strict=True) if p is not None),
    ]
    errors = {n: relative_error(a, e) for n, a, e in zip(names, actual, expected, strict=True)}
    assert all(error < TOLERANCE[x.dtype] for error in errors.values()), errors
    assert actual[0].dtype == x.dtype
    assert actual[0].stride() == x.stride()
    assert actual[1].stride() == x.stride()


CASES = {
    "gn": ((3, 12, 9, 9), NormActSpec(scope="sample", groups=3), "weight bias"),
    "gn, no affine": ((3, 12, 9, 9), NormActSpec(scope="sample", groups=3), ""),
    "gn, groups of 6 channels": ((3, 24, 6, 5), NormActSpec(scope="sample", groups=4), "weight bias"),
    "gn, no activation": ((3, 24, 6, 5), NormActSpec(scope="sample", groups=6, activation="none"), "weight bias"),
    "gn, gelu": ((3, 24, 6, 5), NormActSpec(scope="sample", groups=6, activation="gelu"), "weight bias"),
    "ln": ((2, 48, 11, 4), LN, "weight bias"),
    "ln, 37 channels": ((2, 37, 3, 3), LN, "bias"),
    "in": ((2, 40, 4, 4), NormActSpec(scope="sample", groups=40), ""),
    "in, affine": ((2, 5, 17, 3), NormActSpec(scope="sample", groups=5), "weight bias"),
    "group_rms": ((3, 24, 9, 5), NormActSpec(scope="sample", groups=4, centered=False), "weight"),
    "frn": ((3, 16, 9, 5), FRN, "weight bias extra"),
    "frn, 1x2": ((3, 16, 1, 2), FRN, "weight bias extra"),
    "evonorm_s0": ((3, 16, 9, 5), EVONORM_S0, "weight bias extra"),
    "evonorm_s1": ((3, 16, 5, 5), EVONORM_S0, "weight bias"),
    "evonorm_s2": ((3, 12, 5, 5), EVONORM_S2, "weight bias"),
    "bn": ((4, 10, 8, 8), BN, "weight bias"),
    "bn, 40 channels": ((5, 40, 7, 7), BN, "weight bias"),
    "bn, no affine": ((5, 24, 7, 7), NormActSpec(scope="batch", activation="none"), ""),
    "bn, gelu": ((4, 10, 8, 8), NormActSpec(scope="batch", activation="gelu"), "weight bias"),
    "bn, one sample": ((1, 6, 3, 3), BN, "weight bias"),
}
POSITION_CASES = {
    "ln2d": ((2, 10, 5, 7), NormActSpec(scope="position"), "weight bias"),
    "ln2d, 520 channels": ((2, 520, 3, 5), NormActSpec(scope="position", activation="none", eps=1e-6), "weight bias"),
    "ln2d, gelu": ((2, 24, 5, 7), NormActSpec(scope="position", activation="gelu"), "weight bias"),
    "pono": ((2, 10, 5, 7), NormActSpec(scope="position"), ""),
    "rms2d": ((2, 24, 5, 7), NormActSpec(scope="position", centered=False), "weight"),
}
WAYS = {
    "whole": {},
    "looped": {"FORWARD_TILE": 32, "BACKWARD_TILE": 32, "LOOP_TILE": 512, "PROGRAMS": 1, "SUM_TILE": 32},
    "split": {
        "FORWARD_TILE": 32,
        "BACKWARD_TILE": 32,
        "LOOP_TILE": 256,
        "WHOLE_TILE": 0,
        "PROGRAMS": 7,
        "MERGE_TILE": 64,
    },
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Cut small inputs the way that large ones are: into tiles that a program loops over, or that programs share."""
    for constant, value in WAYS[request.param].items():
        monkeypatch.setattr(tiling, constant, value)
    return str(request.param)


def test_ways_are_what_they_say(way: str) -> None:
    chosen = tiling.tile_groups(3, 81, 12, 3, across_samples=False, backward=True)
    assert (chosen.split, chosen.one_tile) == {
        "whole": (False, True),
        "looped": (False, False),
        "split": (True, False),
    }[way]
    assert way != "split" or (chosen.chunks > 1 and chosen.chunk_tiles > 1)


@pytest.mark.parametrize("name", CASES)
def test_output_and_gradients_match_the_formula(name: str, way: str) -> None:
    shape, spec, learned = CASES[name]
    x, parameters, grad = random_case(shape, learned=learned)
    assert_matches_formula(x, spec, parameters, grad)


@pytest.mark.parametrize("name", ["gn", "ln", "frn", "evonorm_s0", "bn"])
def test_contiguous_inputs_match_the_formula_too(name: str, way: str) -> None:
    shape, spec, learned = CASES[name]
    x, parameters, grad = random_case(shape, channels_last=False, learned=learned)
    assert_matches_formula(x, spec, parameters, grad)


@FORMATS
@pytest.mark.parametrize("name", POSITION_CASES)
def test_statistics_by_position_match_the_formula(name: str, channels_last: bool) -> None:
    shape, spec, learned = POSITION_CASES[name]
    x, parameters, grad = random_case(shape, channels_last=channels_last, learned=learned)
    assert_matches_formula(x, spec, parameters, grad)


def test_tiles_of_the_default_plan_match_the_formula() -> None:
    """Unshrunk: programs share the 441 rows of a sample."""
    x, parameters, grad = random_case((1, 48, 21, 21))
    assert_matches_formula(x, LN, parameters, grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["gn", "in", "frn", "evonorm_s0", "bn", "ln2d", "rms2d"])
def test_half_precision_inputs_keep_float32_statistics(name: str, dtype: torch.dtype) -> None:
    shape, spec, learned = (CASES | POSITION_CASES)[name]
    x, parameters, grad = random_case(shape, dtype, learned=learned)
    assert_matches_formula(x, spec, parameters, grad)


def test_frn_does_not_overflow_in_float16() -> None:
    """300 squared exceeds float16's largest number."""
    spec = NormActSpec(scope="sample", groups=2, centered=False, activation="none")
    x = torch.full((1, 2, 4, 4), 300.0, dtype=torch.float16)
    torch.testing.assert_close(norm_act(x, spec), torch.ones_like(x))


@pytest.mark.parametrize("spec", [LN, BN, NormActSpec(scope="position")], ids=lambda spec: spec.scope)
def test_variance_survives_a_mean_a_thousand_times_the_deviation(spec: NormActSpec, way: str) -> None:
    """A one-pass E[x^2] - E[x]^2 in float32 would lose the variance here."""
    x, _, _ = random_case((3, 40, 9, 5), shift=1500.0)
    y = norm_act(x, spec)
    assert relative_error(y, reference.norm_act(x.double(), spec)) < 1e-3


def test_a_mean_ten_thousand_times_the_deviation_costs_no_more_digits_than_the_input_lacks(way: str) -> None:
    """A float32 near 10,000 is exact to 5e-4: the output cannot be better than that."""
    x, _, _ = random_case((3, 40, 9, 5), shift=1e4)
    assert relative_error(norm_act(x, LN), reference.norm_act(x.double(), LN)) < 1e-3


@pytest.mark.parametrize("spec", [LN, BN], ids=lambda spec: spec.scope)
def test_a_first_value_far_from_all_others_costs_no_digits(spec: NormActSpec, way: str) -> None:
    """Distances are summed from it, so that it is the worst there can be."""
    x, parameters, grad = random_case((3, 24, 9, 5))
    x[:, :, 0, 0] = 100.0
    assert_matches_formula(x, spec, parameters, grad)


def test_channels_with_means_of_their_own_share_a_variance(way: str) -> None:
    x, parameters, grad = random_case((2, 12, 6, 5))
    assert_matches_formula(
        x + 10.0 * torch.arange(12.0)[:, None, None], NormActSpec(scope="sample", groups=3), parameters, grad
    )


def test_gradients_at_the_threshold_are_left_out_of_comparisons() -> None:
    """A rounding error decides there; everywhere else the output gradient is as it was."""
    x = torch.tensor([-1.0, 1.0, -1.0 - 1e-6, 1.0 + 1e-6]).reshape(1, 1, 2, 2)
    grad, bias = torch.ones_like(x), torch.ones(1)
    expected = torch.tensor([0.0, 1.0, 0.0, 1.0]).reshape(1, 1, 2, 2)
    assert torch.equal(reference.settled_gradient(grad, x, replace(LN, eps=0.0), None, bias, None), expected)
    tlu = replace(LN, eps=0.0, activation="tlu")
    assert torch.equal(reference.settled_gradient(grad, x, tlu, None, None, bias), 1.0 - expected)
    assert reference.settled_gradient(grad, x, replace(LN, activation="swish"), None, bias, None) is grad


def test_many_shares_are_summed_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    from normbench.kernels.norm_activation import summed

    monkeypatch.setattr(tiling, "SUM_TILE", 64)
    shares = torch.randn(37, 2, 21, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(summed(shares), shares.sum(0))


@pytest.mark.parametrize("backward", [False, True])
def test_batch_statistics_have_many_programs(backward: bool) -> None:
    """Blocks of channels alone would leave most of a GPU idle: the rows are shared, unless they are few."""
    many_rows = tiling.tile_groups(1, 4096, 256, 256, across_samples=True, backward=backward)
    assert many_rows.split
    assert many_rows.blocks * many_rows.chunks >= tiling.PROGRAMS / 2
    few_rows = tiling.tile_groups(1, 1024, 512, 512, across_samples=True, backward=backward)
    assert few_rows.one_tile
    assert few_rows.blocks == 32


def test_many_programs_read_twice_what_the_cache_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """In 16 bits and backward alone; the result is that of other tiles."""

    def tile(samples: int, **how: Any) -> tiling.GroupTiling:
        return tiling.tile_groups(samples, 256, 128, 32, across_samples=False, **{"backward": True, **how})

    cached = tile(1024)
    assert (cached.one_tile, cached.stages, cached.block_c, cached.block_r) == (False, 1, 64, 64)
    assert (tile(1024, terms=3).block_r, tile(1024, terms=3).num_warps) == (32, cached.num_warps)
    for other in (tile(64), tile(1024, element_bytes=4), tile(1024, backward=False)):
        assert other.one_tile
    monkeypatch.setattr(tiling, "CACHED_PROGRAMS", 1)
    monkeypatch.setattr(tiling, "LOOP_TILE", 512)
    x, parameters, grad = random_case((2, 64, 5, 5), torch.bfloat16)
    spec = NormActSpec(scope="sample", groups=16)
    assert tiling.tile_groups(2, 25, 64, 16, across_samples=False, backward=True).stages == 1
    assert_matches_formula(x, spec, parameters, grad)


def test_a_tile_has_warps_by_its_elements() -> None:
    assert [tiling.num_warps(32 * tiling.THREAD_ELEMENTS * count) for count in (1, 4, 2 * tiling.MAX_WARPS)] == [
        1,
        4,
        tiling.MAX_WARPS,
    ]
    assert tiling.num_warps(1) == 1


def test_the_tiles_on_their_way_are_as_many_bytes_in_every_dtype() -> None:
    assert (tiling.stages(2), tiling.stages(4)) == (tiling.STAGES, tiling.STAGES // 2)


def test_samples_do_not_see_each_other() -> None:
    spec = NormActSpec(scope="sample", groups=4)
    x, parameters, _ = random_case((3, 16, 6, 6))
    alone = torch.cat([norm_act(x[i : i + 1], spec, *parameters) for i in range(3)])
    torch.testing.assert_close(norm_act(x, spec, *parameters), alone, rtol=0, atol=0)


def test_parameter_gradients_are_the_same_in_every_run(way: str) -> None:
    x, parameters, grad = random_case((3, 24, 9, 5), torch.bfloat16)
    first, second = (outputs_and_gradients(norm_act, x, BN, parameters, grad) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@FORMATS
def test_running_statistics_follow_batch_norm(channels_last: bool, way: str) -> None:
    shape = (5, 40, 7, 7)
    layer = nn.BatchNorm2d(shape[1], momentum=0.3)
    mean, var, count = layer.running_mean.clone(), layer.running_var.clone(), layer.num_batches_tracked.clone()
    running = {"running_mean": mean, "running_var": var, "num_batches_tracked": count, "momentum": 0.3}
    spec = NormActSpec(scope="batch", activation="none")
    for step in range(2):
        x, _, _ = random_case(shape, channels_last=channels_last, shift=float(step))
        torch.testing.assert_close(norm_act(x, spec, **running), layer(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mean, layer.running_mean)
    torch.testing.assert_close(var, layer.running_var)
    assert count.item() == layer.num_batches_tracked.item() == 2

    layer.eval()
    before = (mean.clone(), var.clone())
    with torch.no_grad():
        torch.testing.assert_close(norm_act(x, spec, use_running=True, **running), layer(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close((mean, var), before, rtol=0, atol=0)
    assert count.item() == 2


def test_only_the_input_and_statistics_are_kept_for_backward() -> None:
    spec = NormActSpec(scope="sample", groups=4)
    x, parameters, _ = random_case((2, 16, 8, 8))
    leaves = [x.requires_grad_(), *(p.requires_grad_() for p in parameters if p is not None)]
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        norm_act(*leaves[:1], spec, *leaves[1:])
    extra = [t for t in kept if t.data_ptr() not in {leaf.data_ptr() for leaf in leaves}]
    assert sum(t.numel() for t in extra) == 2 * 2 * 4  # mean and 1 / deviation of 2 samples x 4 groups


def test_an_expanded_output_gradient_is_taken() -> None:
    """The gradient of a mean over positions comes expanded, with strides of 0."""
    spec = NormActSpec(scope="sample", groups=4)
    x, parameters, _ = random_case((2, 16, 4, 4))
    grad = torch.randn(2, 16, 1, 1, generator=torch.Generator().manual_seed(1)).expand(2, 16, 4, 4)
    assert_matches_formula(x, spec, parameters, grad)


@pytest.mark.parametrize(
    ("x", "spec", "reason"),
    [
        (torch.zeros(2, 4, 3, 3, dtype=torch.float64), LN, "float64"),
        (torch.zeros(2, 4, 3), LN, "(N, C, H, W)"),
        (torch.zeros(0, 4, 3, 3), LN, "at least one element"),
        (torch.zeros(2, 4, 3, 6)[..., ::2], LN, "neither contiguous nor channels_last"),
        (torch.zeros(2, 4, 3, 3), NormActSpec(scope="sample", groups=3), "do not divide"),
        (torch.zeros(2, 4, 1, 1), NormActSpec(scope="sample", groups=4), "single value"),
        (torch.zeros(1, 4, 1, 1), BN, "single value"),
        (torch.zeros(1, 5000, 1, 1), LN, "5000 channels"),
        (torch.zeros(2, 4, 3, 3), NormActSpec(scope="position", activation="tlu"), "tlu"),
    ],
)
def test_what_is_not_covered_has_a_reason_and_is_refused(x: torch.Tensor, spec: NormActSpec, reason: str) -> None:
    assert reason in (unsupported_reason(x, spec) or "")
    with pytest.raises(ValueError, match=re.escape(reason)):
        norm_act(x, spec)


def test_arguments_that_do_not_go_with_the_spec_are_refused() -> None:
    x, mean, var = torch.randn(2, 4, 3, 3), torch.zeros(4), torch.ones(4)
    with pytest.raises(ValueError, match="scope 'batch'"):
        norm_act(x, LN, running_mean=mean, running_var=var)
    with pytest.raises(ValueError, match="no extra"):
        norm_act(x, LN, extra=mean)
    with pytest.raises(ValueError, match="running_mean and running_var"):
        norm_act(x, BN, use_running=True)
    with pytest.raises(ValueError, match="no gradient"):
        norm_act(x.requires_grad_(), BN, running_mean=mean, running_var=var, use_running=True)
