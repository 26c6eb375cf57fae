"""The squashing functions' kernels against their formulas in float64, on memory filled with NaN beforehand."""

from __future__ import annotations

import pytest
import test_kernels_formulas as formulas
import torch
from torch import Tensor

from normbench.kernels import SquashSpec, squash
from normbench.kernels.reference import THRESHOLD_MARGIN
from normbench.kernels.squashing import _tile

_poisoned_memory = formulas._poisoned_memory

SHAPES = {"odd": (3, 10, 5, 7), "channels in blocks": (2, 130, 4, 4), "one row": (1, 5, 1, 1), "16 rows": (4, 16, 4, 4)}
LARGE_SHAPES = {
    "first layer of NormResNet": (64, 64, 32, 32),
    "last": (64, 512, 4, 4),
}
SPECS = [
    SquashSpec(function="tanh"),
    SquashSpec(function="erf"),
    SquashSpec(function="tanh", activation="none"),
    SquashSpec(function="erf", activation="none"),
]
Case = tuple[Tensor, list[Tensor], Tensor]


def formula(
    x: Tensor, spec: SquashSpec, weight: Tensor, bias: Tensor, alpha: Tensor, s: Tensor | None = None
) -> Tensor:
    inner = alpha * x + (0.0 if s is None else s)
    squashed = torch.tanh(inner) if spec.function == "tanh" else torch.erf(inner)
    y = squashed * weight[:, None, None] + bias[:, None, None]
    return y.relu() if spec.activation == "relu" else y


def draw(shape: tuple[int, ...], spec: SquashSpec, dtype: torch.dtype, *, channels_last: bool) -> Case:
    """Return input, parameters and output gradient, which is 0 where rounding may decide whether the ReLU passes it."""
    x, (weight, bias, _), grad = formulas.random_case(shape, dtype, channels_last=channels_last)
    parameters = [weight, bias, torch.tensor([0.7])]
    if spec.function == "erf":
        parameters.append(torch.tensor([-0.2]))
    before = formula(
        x.double(), SquashSpec(function=spec.function, activation="none"), *(p.double() for p in parameters)
    )
    return x, parameters, grad.masked_fill(before.abs() < THRESHOLD_MARGIN, 0.0)


def results(function, x: Tensor, spec: SquashSpec, parameters: list[Tensor], grad: Tensor) -> list[Tensor]:
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, *parameters)]
    y = function(leaves[0], spec, *leaves[1:])
    y.backward(grad.to(y.dtype))
    return [y.detach(), *(leaf.grad for leaf in leaves)]


def assert_matches(case: Case, spec: SquashSpec, device: str = "cpu") -> None:
    x, parameters, grad = case
    actual = results(squash, x.to(device), spec, [p.to(device) for p in parameters], grad.to(device))
    wide = [t.to(device).double() for t in (x, *parameters, grad)]
    expected = results(formula, wide[0], spec, wide[1:-1], wide[-1])
    errors = [formulas.relative_error(a, e) for a, e in zip(actual, expected, strict=True)]
    assert max(errors) < formulas.TOLERANCE[x.dtype], errors
    assert actual[0].dtype == x.dtype
    assert actual[0].stride() == actual[1].stride() == x.stride()


@formulas.FORMATS
@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_output_and_gradients_match_the_formula(name: str, spec: SquashSpec, channels_last: bool) -> None:
    assert_matches(draw(SHAPES[name], spec, torch.float32, channels_last=channels_last), spec)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("spec", SPECS[:2], ids=str)
def test_half_precision_matches_too(spec: SquashSpec, dtype: torch.dtype) -> None:
    assert_matches(draw(SHAPES["odd"], spec, dtype, channels_last=True), spec)


@pytest.mark.parametrize("spec", SPECS[:2], ids=str)
def test_programs_take_several_tiles_in_turn(spec: SquashSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normbench.kernels.squashing._TILE", 64)
    monkeypatch.setattr("normbench.kernels.squashing._PROGRAMS", 3)
    case = draw(SHAPES["odd"], spec, torch.float32, channels_last=True)
    tiling = _tile(case[0])
    assert tiling.tiles > 2 * tiling.programs > 2
    assert_matches(case, spec)


def test_large_inputs_saturate() -> None:
    x = torch.tensor([-1e4, -40.0, 0.0, 40.0, 1e4]).reshape(1, 1, 1, 5)
    one, zero = torch.ones(1), torch.zeros(1)
    for spec in SPECS[2:]:
        y = squash(x, spec, one, zero, one)
        torch.testing.assert_close(y.flatten(), torch.tensor([-1.0, -1.0, 0.0, 1.0, 1.0]), rtol=0, atol=2e-7)


def test_what_no_kernel_takes_is_refused() -> None:
    one = torch.ones(4)
    with pytest.raises(ValueError, match="float64"):
        squash(torch.zeros(2, 4, 3, 3, dtype=torch.float64), SPECS[0], one, one, one[:1])


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "channels_last"), [(torch.float32, True), (torch.bfloat16, False)], ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_small_shapes_match_the_formula_on_a_gpu(
    name: str, spec: SquashSpec, dtype: torch.dtype, channels_last: bool
) -> None:
    assert_matches(draw(SHAPES[name], spec, dtype, channels_last=channels_last), spec, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("spec", SPECS[:2], ids=str)
@pytest.mark.parametrize("name", LARGE_SHAPES)
def test_layers_match_the_formula_and_repeat_on_a_gpu(name: str, spec: SquashSpec) -> None:
    x, parameters, grad = draw(LARGE_SHAPES[name], spec, torch.bfloat16, channels_last=True)
    assert_matches((x, parameters, grad), spec, "cuda")
    on_device = (x.cuda(), spec, [p.cuda() for p in parameters], grad.cuda())
    for first, second in zip(results(squash, *on_device), results(squash, *on_device), strict=True):
        assert torch.equal(first, second)
