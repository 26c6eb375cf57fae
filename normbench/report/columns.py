"""What a table shows people: its columns, and how each number is written. Raw numbers are formats.py's `to_records`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import floor, log10
from typing import Literal

from normbench.report.captions import field_name, format_scalar
from normbench.report.stats import Estimate, Spread
from normbench.report.sweeps import TOLERANCE, Sensitivity
from normbench.report.table import Row, Table
from normbench.report.verdicts import Comparison

NOTHING = "-"
Align = Literal["left", "right"]


@dataclass(frozen=True)
class Column:
    """A column for people: its header with the unit, and the text of each row's cell."""

    header: str
    cell: Callable[[Row], str]
    align: Align = "right"
    marks_best: bool = False
    """Whether a resolved best row is bold here: where its name and its accuracy stand, not its cost."""

    def is_bold(self, row: Row) -> bool:
        """Whether the cell of `row` is to be set in bold."""
        return self.marks_best and row.is_resolved_best


def columns(table: Table) -> list[Column]:
    """Return the columns that `table` has something to say in."""
    return [*norm_columns(table), *result_columns(table), *cost_columns(table), RUNS]


def norm_columns(table: Table) -> list[Column]:
    """Return what a row is: the norm and the fields that vary."""
    varied = [Column(field_name(path), _field(path)) for path in table.varied]
    return [Column("norm", lambda row: row.label, "left", marks_best=True), *varied]


def result_columns(table: Table) -> list[Column]:
    """Return how accurate a row is, also against the others."""
    found = [Column("test accuracy (%)", lambda row: format_percent(row.accuracy), marks_best=True)]
    if table.has_comparisons:
        found.append(Column(f"difference to {table.baseline} (points)", _difference))
        found.append(Column("verdict", lambda row: format_verdict(row, table.margin), "left"))
    if any(row.rank for row in table.rows):
        found.append(Column("rank", lambda row: format_rank(row.rank)))
    if any(row.batch_one for row in table.rows):
        found.append(Column("at batch size 1 (%): evaluation / batch statistics", _at_batch_one, "left"))
    return found


def evidence_columns(table: Table) -> list[Column]:
    """Return what stands behind the verdicts: differences and tests."""

    def tell(write: Callable[[Comparison], str]) -> Callable[[Row], str]:
        return lambda row: NOTHING if row.comparison is None else write(row.comparison)

    return [
        Column(f"difference to {table.baseline} (points)", _difference),
        Column("pairs", tell(lambda found: str(found.difference.estimate.n))),
        Column("Cohen's d_z", tell(lambda found: _number(found.difference.cohens_dz, "{:+.2f}"))),
        Column("t test p", tell(lambda found: format_p(found.difference.t_p))),
        Column("Holm-adjusted p", tell(lambda found: format_p(found.holm_p))),
        Column("sign-flip p", tell(lambda found: format_p(found.difference.sign_flip_p))),
        Column("verdict", lambda row: format_verdict(row, table.margin), "left"),
    ]


def cost_columns(table: Table) -> list[Column]:
    """Return what a row takes: time, parameters, memory."""
    found = [Column("time per epoch (s)", lambda row: format_spread(row.epoch_seconds))]
    if any(row.relative_time and not row.is_baseline for row in table.rows):
        found.append(Column(f"time / {table.baseline}", lambda row: _number(row.relative_time, "{:.2f}x")))
    for target in dict.fromkeys(target for row in table.rows for target in row.seconds_to_reach):
        if any(row.seconds_to_reach[target] for row in table.rows):
            found.append(Column(f"time to {100 * float(target):g} % (s)", _time_to(target)))
    found.append(Column("parameters", lambda row: _number(row.num_parameters, "{:,}")))
    found.append(Column("peak memory (MiB)", lambda row: _number(row.peak_memory_mib, "{:,.0f}")))
    return found


RUNS = Column("runs", lambda row: row.runs, "left")


def _field(path: str) -> Callable[[Row], str]:
    return lambda row: format_scalar(row.fields[path])


def _time_to(target: str) -> Callable[[Row], str]:
    return lambda row: _number(row.seconds_to_reach[target], "{:.1f}")


def _at_batch_one(row: Row) -> str:
    """Write ``18.0 ± 2.1 / 24.3, collapsed``."""
    found = row.batch_one
    if found is None:
        return NOTHING
    accuracies = [format_percent(found.accuracy), format_percent(found.batch_statistics_accuracy).partition(" ")[0]]
    diverged = [f"{found.num_diverged} diverged"] if found.num_diverged else []
    return ", ".join([" / ".join(accuracies), *([found.stability] if found.stability else []), *diverged])


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
    median = f"{spread.median:.{digits}f}"
    return median if spread.n == 1 else f"{median} ± {spread.mad:.{digits}f}"


def format_p(p: float | None) -> str:
    """Write a p value with two or three digits that count."""
    if p is None:
        return NOTHING
    return "<0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


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
        return f"not resolved (~{comparison.seeds_to_resolve} fresh seeds)"
    return comparison.verdict


SENSITIVITY_HEADERS = (
    "norm",
    "best learning rate",
    "test accuracy there (%)",
    "within one point from",
    "to",
    "width (decades)",
    "fails from",
)


TESTS_CAPTION = (
    "Differences are taken seed by seed; the verdict rests on the Holm-adjusted p of the paired t test. The sign-flip "
    "test assumes only that differences are symmetric under equality; with n pairs its p cannot be below 2 / 2^n."
)


def sensitivity_caption() -> str:
    """Say what the learning-rate table holds."""
    return (
        "Among the learning rates that were run: the best by mean test accuracy, the unbroken range around it that "
        f"stays within {100 * TOLERANCE:g} point of it, and the lowest rate at which a run failed: it diverged, or its "
        "training loss in the last epoch was no lower than that of guessing among ten classes, ln 10."
    )


def sensitivity_cells(entry: Sensitivity) -> list[str]:
    """Return the cells of one norm, in the order of `SENSITIVITY_HEADERS`."""
    best = entry.best
    found = [NOTHING] * 5
    if best is not None:
        accuracy = format_percent(best.accuracy)
        found = [f"{best.rate:.3g}", accuracy, f"{best.low:.3g}", f"{best.high:.3g}", f"{best.decades:.1f}"]
    return [
        entry.label + (f" ({entry.title})" if entry.title else ""),
        *found,
        f"none up to {entry.highest_rate:.3g}" if entry.fails_from is None else f"{entry.fails_from:.3g}",
    ]


def _difference(row: Row) -> str:
    return NOTHING if row.comparison is None else format_percent(row.comparison.difference.estimate, sign=True)


def _number(value: float | None, template: str) -> str:
    return NOTHING if value is None else template.format(value)


def _magnitude(value: float) -> int:
    """Return the number of digits before the decimal point: 1 for 5.2, 2 for 52, 0 for 0.5, -1 for 0.05."""
    return floor(log10(value)) + 1 if value > 0 else 1
