"""What probes measure during a run (docs/probes.md): the rows of ``probes/<name>.jsonl``, and how they are read.

Numbers that a diverging run made infinite or NaN are held as text, as in all records.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from normbench.config.probes import MAX_STEP_SIZES
from normbench.errors import RunError, shown
from normbench.runs.bundle_file import exists
from normbench.runs.regular_files import damaged
from normbench.runs.untrusted import describe_problem, read_bytes
from normbench.tasks.task import Count, Fraction, Row

PROBES_FOLDER = "probes"
_MAX_BYTES = 64 * 2**20
_MAX_ROWS = 100_000
_MAX_LAYERS = 2000


class ProbeRow(Row):
    """One measurement, before the training step `step`, 0 for the first."""

    step: Count


class LandscapeRow(ProbeRow):
    """Loss and gradient at the weights and at points along the gradient (`normbench.engine.probes.landscape`)."""

    loss: float
    """Of the step's batch, in nats."""
    gradient_norm: float
    weight_norm: float
    step_sizes: Annotated[tuple[float, ...], Field(min_length=1, max_length=MAX_STEP_SIZES)]
    losses: Annotated[tuple[float, ...], Field(max_length=MAX_STEP_SIZES)]
    """The loss after each step size."""
    gradient_distances: Annotated[tuple[float, ...], Field(max_length=MAX_STEP_SIZES)]
    """The norm of the difference of the gradient there and here."""
    cosines: Annotated[tuple[float, ...], Field(max_length=MAX_STEP_SIZES)]
    """The cosine of the angle between the gradient there and here."""

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if {len(self.losses), len(self.gradient_distances), len(self.cosines)} != {len(self.step_sizes)}:
            raise ValueError("not one loss, distance and cosine for each step size")
        return self

    @property
    def loss_range(self) -> tuple[float, float]:
        """The least and the greatest loss along the gradient, that at the weights included."""
        return min(self.loss, *self.losses), max(self.loss, *self.losses)

    @property
    def smoothness(self) -> float:
        """The largest gradient difference over distance; NaN without a gradient."""
        moved = [size * self.gradient_norm for size in self.step_sizes]
        ratios = [d / m if m > 0 else math.nan for d, m in zip(self.gradient_distances, moved, strict=True)]
        return max(ratios)


class Activations(Row):
    """The numbers of a layer's activations on one batch."""

    mean: float
    std: float
    zero_share: Fraction
    """Share of values that are 0."""
    dead_share: Fraction
    """Share of channels that have one value for all images and positions."""


class NormSignals(Row):
    """One norm layer: what goes in, what comes out of it and its activation."""

    name: Annotated[str, Field(max_length=300)]
    before: Activations
    after: Activations
    stable_rank: float
    similarity: float
    """Mean cosine between the activations of two images."""
    mean_gap: float | None = None
    """Distance of the batch's mean from the running mean, in running standard deviations; mean over channels."""
    variance_gap: float | None = None
    """Absolute logarithm of the batch's variance over the running variance; mean over channels."""


class WeightSignals(Row):
    """One weight tensor of a convolution or linear layer."""

    name: Annotated[str, Field(max_length=300)]
    weight_norm: float
    gradient_norm: float
    effective_learning_rate: float
    """The learning rate over the squared norm."""


class SignalsRow(ProbeRow):
    """Every layer on one batch (`normbench.engine.probes.signals`); layers in the order of the forward pass."""

    norms: Annotated[tuple[NormSignals, ...], Field(max_length=_MAX_LAYERS)]
    weights: Annotated[tuple[WeightSignals, ...], Field(max_length=_MAX_LAYERS)]

    @property
    def gradient_ratio(self) -> float:
        """The gradient norm of the first weight over that of the last; NaN without."""
        if not self.weights or not self.weights[-1].gradient_norm > 0:
            return math.nan
        return self.weights[0].gradient_norm / self.weights[-1].gradient_norm


class CurvatureRow(ProbeRow):
    """The Hessian's eigenvalue of the largest magnitude (`normbench.engine.probes.curvature`)."""

    eigenvalue: float
    iterations: Count
    residual: float
    """Norm of ``H v - eigenvalue v`` over the eigenvalue, for the unit vector v."""
    is_converged: bool


ROWS: Mapping[str, type[ProbeRow]] = MappingProxyType(
    {"landscape": LandscapeRow, "signals": SignalsRow, "curvature": CurvatureRow}
)
"""The type of each probe's rows."""


def probe_file(name: str) -> str:
    """Return the path of a probe's rows in a run's folder."""
    return f"{PROBES_FOLDER}/{name}.jsonl"


def read_probes(run_folder: Path) -> tuple[dict[str, tuple[ProbeRow, ...]], list[str]]:
    """Return the rows of each probe that a run has, and, a line each, why those of another cannot be read."""
    found, problems = {}, []
    for name in ROWS:
        try:
            if exists(run_folder / probe_file(name)):
                found[name] = _read_rows(run_folder / probe_file(name), ROWS[name])
        except RunError as error:
            problems.append(str(error))
    return found, problems


def _read_rows(path: Path, kind: type[ProbeRow]) -> tuple[ProbeRow, ...]:
    content = read_bytes(path, _MAX_BYTES)
    lines = content[: content.rfind(b"\n") + 1].splitlines()  # a killed process may have cut the last one off
    if len(lines) > _MAX_ROWS:
        raise damaged(path, f"more than {_MAX_ROWS:,} rows")
    try:
        rows = tuple(kind.model_validate_json(line) for line in lines)
    except ValidationError as error:
        raise damaged(path, shown(describe_problem(error))) from None
    if any(after.step <= before.step for before, after in pairwise(rows)):
        raise damaged(path, "its steps do not increase")
    return rows
