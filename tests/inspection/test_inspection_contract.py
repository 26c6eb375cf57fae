"""`normbench check`: NormBench's own norms keep the contract, and each kind of broken norm is found by its check."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from normbench.inspection import contract
from normbench.inspection.contract import Check, check_norm
from normbench.norms import NORMS, SEQUENCE_NORMS, as_factory, make_norm, make_sequence_norm


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler is found to agree: it takes seconds, and has tests of its own."""
    monkeypatch.setattr(contract, "_compile", lambda _: contract.Found(True, 0, "not run"))


def checks_of(norm: Any, channels: int = 8) -> dict[str, Check]:
    return {check.name: check for check in check_norm(norm if hasattr(norm, "norm") else as_factory(norm), channels)}


def failed(norm: Any) -> set[str]:
    return {name for name, check in checks_of(norm).items() if check.verdict == "fails"}


class Plain(nn.Module):
    """The mean square of a sample, in float32; subclasses break one promise each."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))

    def statistics(self, x: torch.Tensor) -> torch.Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        return wide.square().mean(dim=(1, 2, 3), keepdim=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * torch.rsqrt(self.statistics(x) + 1e-5) * self.weight[:, None, None]).to(x.dtype)


class NoEps(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * torch.rsqrt(self.statistics(x)) * self.weight[:, None, None]).to(x.dtype)


class NarrowStatistics(Plain):
    def statistics(self, x: torch.Tensor) -> torch.Tensor:
        return x.square().mean(dim=(1, 2, 3), keepdim=True)


class Widens(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.dtype == torch.float64 else x.float())


class Contiguous(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.contiguous())


class Detached(Plain):
    def statistics(self, x: torch.Tensor) -> torch.Tensor:
        return super().statistics(x.detach())


class OverTheBatch(Plain):
    def statistics(self, x: torch.Tensor) -> torch.Tensor:
        return super().statistics(x).mean(dim=0, keepdim=True)


class Forgets(Plain):
    """Its running average is no buffer."""

    def __init__(self, num_channels: int) -> None:
        super().__init__(num_channels)
        self.average = torch.ones(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.average = 0.5 * self.average + 0.5 * self.statistics(x).mean().detach()
        return (x * torch.rsqrt(self.average + 1e-5) * self.weight[:, None, None]).to(x.dtype)


class NeedsFourPixels(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * (x.shape[-1] / (x.shape[-1] - 1) if x.shape[-1] > 1 else float("nan"))


class Squeezes(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).mean(dim=(2, 3))


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize(
    ("norm", "name"),
    [
        (NoEps, "constant input"),
        (NarrowStatistics, "fp16"),
        (Widens, "dtype"),
        (Contiguous, "memory format"),
        (OverTheBatch, "other samples"),
        (Forgets, "state_dict"),
        (NeedsFourPixels, "one pixel"),
        (Squeezes, "shape"),
    ],
)
def test_each_broken_promise_is_found_by_its_check(norm: type[nn.Module], name: str) -> None:
    assert failed(Plain) == set()
    assert name in failed(norm)


class WrongBackward(torch.autograd.Function):
    """Leaves out that the statistics depend on the input."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(x.square().mean(dim=(1, 2, 3), keepdim=True) + 1e-5)
        ctx.save_for_backward(scale)
        return x * scale

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        (scale,) = ctx.saved_tensors
        return gradient * scale


class WrongGradient(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return WrongBackward.apply(x) * self.weight[:, None, None]


class InFloat32(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.float()).to(x.dtype)


@pytest.mark.usefixtures("no_compiler")
def test_a_wrong_gradient_is_found_and_float32_is_not_taken_for_one() -> None:
    assert "gradient" in failed(WrongGradient)
    assert failed(InFloat32) == set()
    exact, rounded = (checks_of(norm)["gradient"].number for norm in (Plain, InFloat32))
    assert exact is not None
    assert exact < 1e-7
    assert rounded is not None
    assert 1e-7 < rounded < 3e-3


@pytest.mark.usefixtures("no_compiler")
def test_a_layer_that_raises_fails_with_what_it_said() -> None:
    class Raises(Plain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) == 1:
                raise KeyError("one")
            return super().forward(x)

    check = checks_of(Raises)["batch of one"]
    assert (check.verdict, check.number, check.measured) == ("fails", None, "KeyError: 'one'")


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("name", ["bn", "gn", "in", "frn", "ln_chw"])
def test_norms_of_the_catalog_keep_it(name: str) -> None:
    assert failed(make_norm(name)) == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", NORMS)
def test_every_norm_of_the_catalog_keeps_it(name: str) -> None:
    # Evaluation with the batch's statistics, the limits of BRN, and Online Norm's backward pass are their definitions.
    # MABN and Online Norm update in place what their backward pass reads, which the compiler's eager backend does not
    # bear.
    allowed = {
        "bn_nostats": {"other samples"},
        "brn": {"gradient"},
        "mabn": {"torch.compile"},
        "online": {"gradient", "torch.compile"},
    }.get(name, set())
    assert failed(make_norm(name)) <= allowed


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("name", SEQUENCE_NORMS)
def test_every_sequence_norm_of_the_catalog_keeps_it(name: str) -> None:
    allowed = {"power": {"gradient"}}.get(name, set())  # whose backward pass is an approximation by definition
    assert failed(make_sequence_norm(name)) <= allowed


@pytest.mark.usefixtures("no_compiler")
def test_the_command_says_it_line_by_line(normbench: Callable[..., Any]) -> None:
    result = normbench("check", "gn", "--json")
    report = json.loads(result.out)
    assert (result.code, report["passes"]) == (0, True)
    assert all(check["if_it_fails"] and check["measured"] for check in report["checks"])
    assert "hold, 0 fail" in normbench("check", "gn").out
    assert normbench("check", "gn", "--against", "ln", "--norm-option", "groups=1").code == 0
    assert normbench("check", "gn", "--against", "ln").code == 1
    assert normbench("check", "nothing").code == 2
    assert "did you mean 'groups'" in normbench("check", "gn", "--norm-option", "group=1").err


@pytest.mark.gpu
@pytest.mark.usefixtures("no_compiler")
def test_a_capture_is_compared_with_what_the_layer_computes() -> None:
    class Counts(Plain):
        def __init__(self, num_channels: int) -> None:
            super().__init__(num_channels)
            self.steps = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.steps += 1
            return super().forward(x) * (1 + 0.1 * self.steps)

    class AsksTheHost(Plain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * float(x.abs().max() > 0)

    assert checks_of(Plain)["CUDA graph"].verdict == "ok"
    assert checks_of(make_norm("bn"))["CUDA graph"].verdict == "ok"
    assert checks_of(Counts)["CUDA graph"].verdict == "fails"
    assert checks_of(AsksTheHost)["CUDA graph"].verdict == "fails"
