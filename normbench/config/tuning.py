"""``tune:`` of a config: each norm's own learning rate, found with the same budget for every norm."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Rate = Annotated[float, Field(gt=0)]

FIRST_SEED = 10_000
"""Tuning has the seeds from here on, so that no run of the comparison repeats a run by which its rate was chosen."""
MAX_TRIALS = 1000


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


class RateRange(_Frozen):
    """Learning rates drawn at random between two, log-uniformly, the same ones for every norm."""

    low: Rate
    high: Rate

    @model_validator(mode="after")
    def _is_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low:g} and high {self.high:g}: a range goes from the lower to the higher")
        return self


def _rates(value: Any) -> Any:
    """Leave a list of rates in increasing order, each once; which of the two forms is meant is plain."""
    if isinstance(value, list | tuple) and all(isinstance(rate, int | float) for rate in value):
        return tuple(sorted(set(value)))
    return value


class TuneConfig(_Frozen):
    """How learning rates are tuned; the winner of each norm is trained afresh with the comparison's seeds."""

    learning_rate: Annotated[
        Annotated[tuple[Rate, ...], Field(min_length=2, max_length=MAX_TRIALS)] | RateRange, BeforeValidator(_rates)
    ]
    """Candidates, or a range (``{low: 1e-4, high: 1e-1}``) to draw `trials` of. Written `lr` or `learning_rate`."""
    trials: int | None = Field(None, ge=2, le=MAX_TRIALS, strict=True)
    """How many rates to draw of a range; 8 if absent."""
    seeds: int = Field(2, ge=1, le=100, strict=True)
    """Runs of each norm at each rate, by whose mean accuracy the rate is chosen."""
    split: Literal["val", "test"] = "val"
    """`val`: accuracy on training images that were held out. `test` flatters every norm, and is for data sets without
    such a split."""
    shared_rate: bool = Field(True, strict=True)
    """Whether norms are also compared at the one learning rate of `train`; False halves the runs after the tuning."""

    @model_validator(mode="before")
    @classmethod
    def _spell_out_lr(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "lr" in data:
            if "learning_rate" in data:
                raise ValueError("lr and learning_rate are the same setting; give one of them")
            return {("learning_rate" if key == "lr" else key): value for key, value in data.items()}
        return data

    @model_validator(mode="after")
    def _is_one_budget(self) -> Self:
        if self.trials is not None and not isinstance(self.learning_rate, RateRange):
            raise ValueError("trials is the number of rates to draw of a range; a list has as many as it has")
        return self

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates that every norm is tried at, in increasing order."""
        import numpy as np

        if not isinstance(self.learning_rate, RateRange):
            return self.learning_rate
        low, high = log(self.learning_rate.low), log(self.learning_rate.high)
        drawn = np.exp(np.random.default_rng(0).uniform(low, high, self.trials or 8))
        return tuple(sorted(float(f"{rate:.3g}") for rate in drawn))

    @property
    def tuning_seeds(self) -> tuple[int, ...]:
        """The seeds of the runs by which a rate is chosen."""
        return tuple(range(FIRST_SEED, FIRST_SEED + self.seeds))
