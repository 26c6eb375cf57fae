"""What a table shows people: its columns, and how each number is written. Raw numbers are formats.py's `to_records`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import floor, log10
from typing import Literal

from normbench.report.stats import Estimate, Spread
from normbench.report.tables import Row, Table, field_name, format_scalar

NOTHING = "-"


@dataclass(frozen=True)
class Column:
    """A column for people: its header with the unit, and the text of each row's cell."""

    header: str
    cell: Callable[[Row], str]
    align: Literal["left", "right"] = "right"


def columns(table: Table) -> list[Column]:
    """Return the columns that `table` has something to say in."""
    rows = table.rows
    found = [Column("norm", lambda row: row.label, "left")]
    found += [Column(field_name(path), lambda row, path=path: format_scalar(row.fields[path])) for path in table.varied]  # type: ignore[misc]
    found.append(Column("test accuracy (%)", lambda row: format_percent(row.accuracy)))
    if any(row.comparison for row in rows):
        found.append(Column(f"difference to {table.baseline} (points)", _difference))
        found.append(Column("verdict", lambda row: format_verdict(row, table.margin), "left"))
    if any(row.rank for row in rows):
        found.append(Column("rank", lambda row: format_rank(row.rank)))
    found.append(Column("time per epoch (s)", lambda row: format_spread(row.epoch_seconds)))
    if any(row.relative_time and not row.is_baseline for row in rows):
        found.append(Column(f"time / {table.baseline}", lambda row: _number(row.relative_time, "{:.2f}x")))
    found += [
        Column("parameters", lambda row: _number(row.num_parameters, "{:,}")),
        Column("peak memory (MiB)", lambda row: _number(row.peak_memory_mib, "{:,.0f}")),
        Column("runs", lambda row: row.runs, "left"),
    ]
    return found


def format_percent(estimate: Estimate | None, *, sign: bool = False) -> str:
    """Write a fraction's estimate in percent: ``91.23 ± 0.41``; without an interval, ``91.23``."""
    if estimate is None:
        return NOTHING
    mean = f"{100 * estimate.mean:{'+' if sign else ''}.2f}"
    return mean if estimate.half_width is None else f"{mean} ± {100 * estimate.half_width:.2f}"


def format_spread(spread: Spread | None) -> str:
    """Write a median with its deviation, as many digits as the median deserves."""
    if spread is None:
        return NOTHING
    digits = max(0, min(4, 3 - _magnitude(spread.median)))
    return f"{spread.median:.{digits}f} ± {spread.mad:.{digits}f}"


def format_rank(rank: tuple[int, int] | None) -> str:
    """Write a range of ranks: ``1`` or ``1-3``."""
    if rank is None:
        return NOTHING
    return str(rank[0]) if rank[0] == rank[1] else f"{rank[0]}-{rank[1]}"


def format_verdict(row: Row, margin: float) -> str:
    """Write the verdict in words, with what would settle an open one."""
    if row.is_baseline:
        return "baseline"
    comparison = row.comparison
    if comparison is None:
        return NOTHING
    if comparison.verdict == "equivalent":
        return f"equivalent (±{100 * margin:g})"
    if comparison.verdict == "not resolved" and comparison.seeds_to_resolve is not None:
        return f"not resolved (~{comparison.seeds_to_resolve} seeds)"
    return comparison.verdict


def _difference(row: Row) -> str:
    return NOTHING if row.comparison is None else format_percent(row.comparison.difference.estimate, sign=True)


def _number(value: float | None, template: str) -> str:
    return NOTHING if value is None else template.format(value)


def _magnitude(value: float) -> int:
    """Return the number of digits before the decimal point: 1 for 5.2, 2 for 52, 0 for 0.5, -1 for 0.05."""
    return floor(log10(value)) + 1 if value > 0 else 1
