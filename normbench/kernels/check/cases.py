"""Cases on which the kernels are checked and timed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from normbench.kernels import NormActSpec
from normbench.kernels.launch import compile_all

LAYERS = ((64, 32), (128, 16), (256, 8), (512, 4))
"""Channels and side of the activations of NormResNet."""
LEARNED = {
    "in": "",
    "rms2d": "weight",
    "group_rms": "weight",
    "frn": "weight bias extra",
    "evonorm_s0": "weight bias extra",
}
NORMS = ("bn", "ln", "in", "gn", "frn", "evonorm_s0", "ln2d", "rms2d", "group_rms")


@dataclass
class Case:
    """One norm on one tensor."""

    norm: str
    shape: tuple[int, int, int, int]
    dtype: torch.dtype = torch.bfloat16
    channels_last: bool = True

    @property
    def spec(self) -> NormActSpec:
        """What the kernel computes."""
        channels = self.shape[1]
        divisor = next(groups for groups in (4, 3, 2, 1) if channels % groups == 0)
        groups = 32 if channels % 32 == 0 else divisor
        return {
            "bn": NormActSpec(scope="batch"),
            "ln": NormActSpec(scope="sample", groups=1),
            "in": NormActSpec(scope="sample", groups=channels),
            "gn": NormActSpec(scope="sample", groups=divisor),
            "group_rms": NormActSpec(scope="sample", groups=divisor, centered=False),
            "frn": NormActSpec(scope="sample", groups=channels, centered=False, activation="tlu", eps=1e-6),
            "evonorm_s0": NormActSpec(scope="sample", groups=groups, activation="swish"),
            "ln2d": NormActSpec(scope="position", eps=1e-6),
            "rms2d": NormActSpec(scope="position", centered=False, eps=1e-6),
        }[self.norm]  # fmt: skip

    def draw(self) -> tuple[Tensor, list[Tensor | None], Tensor]:
        """Draw an input, its parameters (weight, bias, extra) and an output gradient."""
        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        x, grad = (torch.randn(self.shape, device="cuda") for _ in range(2))
        x = (x * 1.5 + 0.3).to(self.dtype, memory_format=memory_format).requires_grad_()
        names = LEARNED.get(self.norm, "weight bias").split()
        parameters = [
            (torch.randn(self.shape[1], device="cuda") * 0.5 + 0.7).requires_grad_() if name in names else None
            for name in ("weight", "bias", "extra")
        ]
        return x, parameters, grad.to(self.dtype, memory_format=memory_format)


def relative_errors(names: Iterable[str], actual: Iterable[Tensor], expected: Iterable[Tensor]) -> dict[str, float]:
    """Return by name ``|actual - expected| / |expected|``."""
    return {
        name: ((a.double() - e).norm() / e.norm()).item() for name, a, e in zip(names, actual, expected, strict=True)
    }


def compile_cases(cases: Iterable[Case]) -> None:
    """Compile the kernels of `cases` on all processor cores; one that fails is reported where it is checked."""
    compile_all({position: partial(_launch, case) for position, case in enumerate(cases)})


def _launch(case: Case) -> None:
    from normbench.kernels.norm_activation import Parameters, launch_all

    x, parameters, _ = case.draw()
    launch_all(x, case.spec, Parameters(*parameters), running=False)
