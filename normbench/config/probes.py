"""What is measured during training beside the loss (docs/probes.md): ``probes:`` in a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

MAX_STEP_SIZES = 16

Every = Annotated[int, Field(ge=1, strict=True)]
"""Training steps from one measurement to the next; the first is before the first step."""


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


class LandscapeConfig(_Options):
    """The loss and its gradient along the gradient."""

    every: Every = 1000
    step_sizes: tuple[Annotated[float, Field(gt=0, le=1e6)], ...] = Field(
        (0.05, 0.1, 0.2, 0.4), min_length=1, max_length=MAX_STEP_SIZES
    )
    """Multiples of the gradient by which the weights are moved against it."""


class SignalsConfig(_Options):
    """Activations, gradients and weights of every layer."""

    every: Every = 500
    samples: int = Field(64, ge=2, le=1024, strict=True)
    """Images of the batch, at most, over which stable rank and cosine are computed."""


class CurvatureConfig(_Options):
    """The largest eigenvalue of the loss's Hessian."""

    every: Every = 10_000
    iterations: int = Field(20, ge=1, le=1000, strict=True)
    """Hessian-vector products of the power iteration, at most."""
    tolerance: float = Field(0.1, gt=0, lt=1)
    """The iteration ends when the residual is at most this share of the eigenvalue."""


class ProbesConfig(_Options):
    """The probes that a run has; a list of names for those with their defaults."""

    landscape: LandscapeConfig | None = None
    signals: SignalsConfig | None = None
    curvature: CurvatureConfig | None = None

    @model_validator(mode="after")
    def _require_one(self) -> ProbesConfig:
        if not self.names:
            raise ValueError(f"name at least one of {', '.join(type(self).model_fields)}, or leave it out")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write nothing of a probe that is not there: one that is added later changes no run's id."""
        data: dict[str, Any] = handler(self)
        return {name: options for name, options in data.items() if options is not None}

    @property
    def names(self) -> list[str]:
        """The probes that are on."""
        return [name for name in type(self).model_fields if getattr(self, name) is not None]


def _names_only(value: object) -> object:
    """Let ``probes: [signals]`` and ``probes: signals`` stand for ``probes: {signals: {}}``."""
    if isinstance(value, str):
        return {value: {}}
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        return {name: {} for name in value}
    if isinstance(value, Mapping):
        return {name: {} if options is None else options for name, options in value.items()}
    return value


ProbesEntry = Annotated[ProbesConfig, BeforeValidator(_names_only)]
