"""The columns that a table shows people, and how each number is written; formats.py's `to_records` has raw ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import floor, log10
from typing import Literal

from normbench.report.batch_one import BatchOne
from normbench.report.captions import field_name, format_scalar, verdict_word
from normbench.report.comparison_table import Row, Table
from normbench.report.stats import Estimate, Share, Spread
from normbench.report.sweeps import TOLERANCE, Sensitivity
from normbench.report.task_report import task_report
from normbench.report.verdicts import Comparison, Verdict
from normbench.tasks import Measure
from normbench.tasks.classification import TEST_ACCURACY

NOTHING = "-"
Align = Literal["left", "right"]


@dataclass(frozen=True)
class Column:
    """A column for people: its header with the unit, and the text of each row's cell."""

    header: str
    cell: Callable[[Row], str]
    align: Align = "right"
    is_bold: Callable[[Row], bool] = lambda row: False
    """Whether a row's cell is bold: the name and the result of a resolved best, not its cost."""
    verdict: Callable[[Row], Verdict | None] = lambda row: None
    """The verdict that the cell states, which the page colors; None in other columns."""


def columns(table: Table) -> list[Column]:
    """Return the columns that `table` has something to say in."""
    return [*norm_columns(table), *result_columns(table), *cost_columns(table), RUNS]


def narrow_columns(table: Table) -> list[Column]:
    """Return the columns that a narrow page has room for: the norm, its results, the difference of one, the time."""
    num_columns = 2 if len(table.measures) == 1 else 1
    results = [column for measure in table.measures for column in _measure_columns(table, measure)[:num_columns]]
    return [*norm_columns(table), *results, *_time_columns(table)]


def norm_columns(table: Table) -> list[Column]:
    """Return what a row is: the norm and the fields that vary."""
    varied = [Column(field_name(path), _field(path)) for path in table.varied]
    return [Column("norm", lambda row: row.label, "left", lambda row: row.is_resolved_best), *varied]


def result_columns(table: Table) -> list[Column]:
    """Return the results of a row, also against the others."""
    found = [column for measure in table.measures for column in _measure_columns(table, measure)]
    if any(row.failure_rate for row in table.rows):
        found.append(Column("diverged", lambda row: _share(row.failure_rate)))
    if any(row.batch_one for row in table.rows):
        found.append(Column("at batch size 1 (%): evaluation / batch statistics", _at_batch_one, "left"))
    return found


def _measure_columns(table: Table, measure: Measure) -> list[Column]:
    """Return one measure's result, difference, verdict and rank; of several measures the verdicts that are resolved."""
    name = measure.name
    found = [
        Column(
            _with_unit(measure.header, measure.unit),
            lambda row: format_estimate(row.results[name].estimate, measure),
            is_bold=lambda row: row.results[name].is_resolved_best,
        )
    ]
    is_only = len(table.measures) == 1
    comparisons = [result.comparison for result in table.results(measure) if result.comparison]
    if comparisons and (is_only or any(found.verdict != "not resolved" for found in comparisons)):
        found += [_difference_column(table, measure), _verdict_column(table, measure)]
    if is_only and any(result.rank for result in table.results(measure)):
        found.append(Column("rank", lambda row: format_rank(row.results[name].rank)))
    return found


def _difference_column(table: Table, measure: Measure) -> Column:
    def difference(row: Row) -> str:
        comparison = row.results[measure.name].comparison
        return format_estimate(comparison.difference.estimate if comparison else None, measure, sign=True)

    return Column(_with_unit(f"difference to {table.baseline}", measure.difference_unit), difference)


def _verdict_column(table: Table, measure: Measure) -> Column:
    def verdict(row: Row) -> Verdict | None:
        comparison = row.results[measure.name].comparison
        return comparison.verdict if comparison else None

    return Column("verdict", lambda row: format_verdict(row, measure, table), "left", verdict=verdict)


def evidence_columns(table: Table, measure: Measure) -> list[Column]:
    """Return the evidence behind the verdicts on one measure: differences and tests."""

    def evidence(write: Callable[[Comparison], str]) -> Callable[[Row], str]:
        def cell(row: Row) -> str:
            comparison = row.results[measure.name].comparison
            return NOTHING if comparison is None else write(comparison)

        return cell

    return [
        _difference_column(table, measure),
        Column("pairs", evidence(lambda found: str(found.difference.estimate.n))),
        Column("correlation", evidence(lambda found: _number(found.difference.correlation, "{:+.2f}"))),
        Column("Cohen's d_z", evidence(lambda found: _number(found.difference.cohens_dz, "{:+.2f}"))),
        Column("t test p", evidence(lambda found: format_p(found.difference.t_p))),
        Column("Holm-adjusted p", evidence(lambda found: format_p(found.holm_p))),
        Column("sign-flip p", evidence(lambda found: format_p(found.difference.sign_flip_p))),
        Column("equivalence p", evidence(lambda found: format_p(found.equivalence_p))),
        Column("higher / within / lower (%)", evidence(_chances)),
        _verdict_column(table, measure),
    ]


def cost_columns(table: Table) -> list[Column]:
    """Return the cost of a row: time, parameters, memory, as far as a row has it."""
    found = _time_columns(table)
    if any(row.relative_time and not row.is_baseline for row in table.rows):
        found.append(Column(f"time / {table.baseline}", format_ratio))
    for target in dict.fromkeys(target for row in table.rows for target in row.seconds_to_reach):
        if any(row.seconds_to_reach[target] for row in table.rows):
            found.append(Column(f"time to {100 * float(target):g} % (s)", _time_to(target)))
    found.append(Column("parameters", lambda row: _number(row.num_parameters, "{:,}")))
    if any(row.peak_memory_mib is not None for row in table.rows):
        found.append(Column("peak memory (MiB)", lambda row: _number(row.peak_memory_mib, "{:,.0f}")))
    return found


def _time_columns(table: Table) -> list[Column]:
    if not any(row.epoch_seconds for row in table.rows):
        return []
    return [Column(f"{task_report(table.task).time} (s)", lambda row: format_spread(row.epoch_seconds))]


RUNS = Column("runs", lambda row: row.runs, "left")


def _share(share: Share | None) -> str:
    """Write ``1 of 5 (1 to 72 %)``."""
    return "0" if share is None else f"{share.count} of {share.n} ({100 * share.low:.0f} to {100 * share.high:.0f} %)"


def _chances(found: Comparison) -> str:
    """Write the chances that the mean difference is above, within and below the margin: ``0 / 2 / 98``."""
    chances = found.difference.test.chances(found.margin)
    return NOTHING if chances is None else " / ".join(f"{100 * chance:.0f}" for chance in chances)


def _field(path: str) -> Callable[[Row], str]:
    return lambda row: format_scalar(row.fields[path])


def _time_to(target: str) -> Callable[[Row], str]:
    return lambda row: _number(row.seconds_to_reach[target], "{:.1f}")


def _at_batch_one(row: Row) -> str:
    """Write ``18.0 ± 2.1 / 24.3, collapsed``."""
    found = row.batch_one
    if found is None:
        return NOTHING
    accuracies = [
        format_estimate(found.accuracy, TEST_ACCURACY),
        format_estimate(found.batch_statistics_accuracy, TEST_ACCURACY).partition(" ")[0],
    ]
    diverged = [f"{found.num_diverged} diverged"] if found.num_diverged else []
    return ", ".join([" / ".join(accuracies), *([format_stability(found)] if found.stability else []), *diverged])


def format_stability(found: BatchOne) -> str:
    """Write the verdict at batch size 1, with those that other seeds might give: ``collapsed (or degraded)``."""
    others = [verdict for verdict in found.possible if verdict != found.stability]
    return f"{found.stability or NOTHING} (or {' or '.join(others)})" if others else found.stability or NOTHING


def format_estimate(estimate: Estimate | None, measure: Measure, *, sign: bool = False) -> str:
    """Write a measure's estimate for people: ``91.23 ± 0.41``; without an interval, ``91.23``."""
    if estimate is None:
        return NOTHING
    mean = f"{measure.scale * estimate.mean:{'+' if sign else ''}{measure.format}}"
    half_width = estimate.half_width
    return mean if half_width is None else f"{mean} ± {measure.scale * half_width:{measure.format}}"


def format_spread(spread: Spread | None) -> str:
    """Write a median with as many digits as it deserves, and its deviation unless that rounds to nothing."""
    if spread is None:
        return NOTHING
    digits = max(0, min(4, 3 - _magnitude(spread.median)))
    median, deviation = f"{spread.median:.{digits}f}", f"{spread.mad:.{digits}f}"
    return f"{median} ± {deviation}" if spread.n > 1 and float(deviation) else median


def format_ratio(row: Row) -> str:
    """Write a time as a multiple of the baseline's: ``1.24 ± 0.02x``, and ``about 1x`` where the spread holds 1."""
    ratio, mad = row.relative_time, row.relative_time_mad
    if ratio is None:
        return NOTHING
    if row.is_baseline:
        return "1x"
    if mad is None or not float(f"{mad:.2f}"):
        return f"{ratio:.2f}x"
    return "about 1x" if abs(ratio - 1) <= mad else f"{ratio:.2f} ± {mad:.2f}x"


def format_p(p: float | None) -> str:
    """Write a p value with three digits that count, so that the lowest of five sign flips is what it is, 0.0625."""
    if p is None:
        return NOTHING
    return "<0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.1 else f"{p:.3f}"


def format_rank(rank: tuple[int, int] | None) -> str:
    """Write a range of ranks: ``1`` or ``1-3``."""
    if rank is None:
        return NOTHING
    return str(rank[0]) if rank[0] == rank[1] else f"{rank[0]}-{rank[1]}"


def format_verdict(row: Row, measure: Measure, table: Table) -> str:
    """Write the verdict in words, with the number of seeds that would resolve an open one."""
    if row.is_baseline:
        return "baseline"
    comparison = row.results[measure.name].comparison
    return NOTHING if comparison is None else verdict_text(comparison, measure, table.margins[measure.name])


def verdict_text(comparison: Comparison, measure: Measure, margin: float) -> str:
    """Write a comparison's verdict in words, with the number of seeds that would resolve an open one.

    Args:
        comparison: what was found.
        measure: what was compared.
        margin: as it was asked for, a raw difference or, for measures of which it is one, a share of the mean.
    """
    if comparison.verdict == "equivalent":
        return (
            f"equivalent (±{100 * margin:g} %)"
            if measure.margin_is_relative
            else f"equivalent (±{measure.scale * margin:g})"
        )
    if comparison.is_withheld:
        return "not resolved (too few runs completed)"
    if comparison.verdict == "not resolved" and comparison.seeds_to_resolve is not None:
        return f"not resolved (~{comparison.seeds_to_resolve} fresh seeds)"
    return verdict_word(measure, comparison.verdict)


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
    "Differences are taken seed by seed; better and worse rest on the Holm-adjusted p of the paired t test, equivalent "
    "on that of two one-sided ones. Correlation: of the results over seeds; pairing gains by what it is above 0. The "
    "sign-flip test assumes only that differences are symmetric under equality; with n pairs its p cannot be below "
    "2 / 2^n. Higher / within / lower: how probable it is, before any data all differences being equally so, that the "
    "mean difference is above, within and below the margin of equivalence."
)


def sensitivity_caption() -> str:
    """Return what the learning-rate table holds."""
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
        accuracy = format_estimate(best.accuracy, TEST_ACCURACY)
        found = [f"{best.rate:.3g}", accuracy, f"{best.low:.3g}", f"{best.high:.3g}", f"{best.decades:.1f}"]
    return [
        entry.label + (f" ({entry.title})" if entry.title else ""),
        *found,
        f"none up to {entry.highest_rate:.3g}" if entry.fails_from is None else f"{entry.fails_from:.3g}",
    ]


def _with_unit(header: str, unit: str) -> str:
    return f"{header} ({unit})" if unit else header


def _number(value: float | None, template: str) -> str:
    return NOTHING if value is None else template.format(value)


def _magnitude(value: float) -> int:
    """Return the number of digits before the decimal point: 1 for 5.2, 2 for 52, 0 for 0.5, -1 for 0.05."""
    return floor(log10(value)) + 1 if value > 0 else 1
