"""What probes measured, as numbers of a group: a curve over training steps, or over layers, for every seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normbench.report.grouping import Group
from normbench.report.stats import Estimate, mean_band, summarize

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Quantity:
    """A number of a probe's row, over training."""

    probe: str
    label: str
    """Its name with the unit, as short as a panel's title."""
    of: Callable[[Any], float]
    """Takes a row of the probe."""
    is_log: bool = False
    """Whether it is positive and compared by ratios: drawn on a logarithmic axis, and averaged as logarithms."""
    limits: tuple[float, float] = (-math.inf, math.inf)
    """The least and greatest value that there can be."""


@dataclass(frozen=True)
class LayerQuantity:
    """A number of every layer of a row, in the order of the forward pass."""

    label: str
    of: Callable[[Any], Sequence[float]]
    """Takes a row of the probe `signals`."""
    is_log: bool = False
    limits: tuple[float, float] = (-math.inf, math.inf)


@dataclass(frozen=True)
class Band:
    """A mean curve over seeds and the ends of its pointwise 95 % t interval, ``(points,)`` each."""

    x: Values
    mean: Values
    low: Values | None = None
    high: Values | None = None


def has_probe(group: Group, probe: str) -> bool:
    """Return whether a completed run of the group has rows of `probe`."""
    return any(run.probe_rows.get(probe) for run in group.completed)


def over_training(group: Group, quantity: Quantity) -> Band | None:
    """Return the quantity by training step, at the steps that all completed runs measured; None without any."""
    rows = [{row.step: row for row in run.probe_rows.get(quantity.probe, ())} for run in group.completed]
    rows = [by_step for by_step in rows if by_step]
    steps = sorted(set.intersection(*map(set, rows))) if rows else []
    if not steps:
        return None
    values = np.array([[quantity.of(by_step[step]) for step in steps] for by_step in rows])
    return _band(np.array(steps, dtype=np.float64), values, quantity.is_log)


def over_layers(group: Group, quantity: LayerQuantity) -> Band | None:
    """Return the quantity by layer, 1 for the first, in each completed run's last row; None without any."""
    last = [rows[-1] for run in group.completed if (rows := run.probe_rows.get("signals"))]
    values = [list(quantity.of(row)) for row in last]
    if not values or not values[0] or len({len(of_run) for of_run in values}) > 1:
        return None
    return _band(np.arange(1.0, len(values[0]) + 1), np.array(values, dtype=np.float64), quantity.is_log)


def _band(x: Values, values: Values, is_log: bool) -> Band | None:
    """Return the mean and interval over runs of `values`, ``(runs, points)``, where all are numbers."""
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.log10(values) if is_log else values
    is_known = np.isfinite(values).all(axis=0)
    if not is_known.any():
        return None
    x, values = x[is_known], values[:, is_known]
    mean, half = mean_band(values)
    curves = [mean, *([] if half is None else [mean - half, mean + half])]
    curves = [10.0**curve for curve in curves] if is_log else curves
    return Band(x, *curves) if len(curves) == 3 else Band(x, mean=curves[0])


def mean_of_training(group: Group, quantity: Quantity) -> Estimate | None:
    """Return the mean over seeds of each run's mean over its measurements, by logarithms where the quantity asks."""
    found = []
    for run in group.completed:
        values = [quantity.of(row) for row in run.probe_rows.get(quantity.probe, ())]
        values = [v for v in values if math.isfinite(v) and (v > 0 or not quantity.is_log)]
        if values:
            found.append(float(10 ** np.log10(values).mean() if quantity.is_log else np.mean(values)))
    return summarize(found)
