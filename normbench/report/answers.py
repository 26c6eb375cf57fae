"""The answer in sentences: what the rows of one setting let one say, and what not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import inf

from normbench.report.captions import describe_margin, listed, verdict_word
from normbench.report.columns import format_estimate
from normbench.report.comparison_table import Row, Table
from normbench.report.figure_style import setting_title
from normbench.report.grouping import Section, Setting
from normbench.report.paired import MIN_SEEDS
from normbench.report.stats import Estimate
from normbench.report.sweeps import Sensitivity
from normbench.report.verdicts import Verdict
from normbench.tasks import Measure


def answers(table: Table) -> list[str]:
    """Return one answer per setting and measure, each naming its setting and measure where there are several."""
    by_setting: dict[Setting, list[Row]] = {}
    for row in table.rows:
        by_setting.setdefault(row.setting, []).append(row)
    several = len(by_setting) > 1
    if several and all(row.num_completed < MIN_SEEDS for row in table.rows):
        return [
            f"which norm is best is not resolved at any setting: a verdict takes at least {MIN_SEEDS} seeds of each."
        ]
    if not any(row.num_completed for row in table.rows):
        return ["no run has completed."]
    found = []
    for setting, rows in by_setting.items():
        for measure in table.measures:
            names = [setting_title(setting)] * several + [measure.header] * (len(table.measures) > 1)
            said = [_best(rows, measure, table.rates), _against_baseline(rows, measure, table)]
            found.append("".join(f"{name}: " for name in names) + " ".join(filter(None, said)))
    return found


def failing_rates(entries: Sequence[Sensitivity]) -> list[str]:
    """Return, for each panel of a learning-rate sweep, the lowest rate at which each norm failed."""
    by_panel: dict[str, list[Sensitivity]] = {}
    for entry in entries:
        by_panel.setdefault(entry.title, []).append(entry)
    found = []
    for title, panel in by_panel.items():
        labels: dict[float | None, list[str]] = {}
        for entry in sorted(panel, key=lambda entry: -(entry.fails_from or inf)):
            labels.setdefault(entry.fails_from, []).append(entry.label)
        top = max(entry.highest_rate for entry in panel)
        parts = [
            f"{listed(names)} nowhere up to {top:.3g}" if rate is None else f"{listed(names)} from {rate:.3g} on"
            for rate, names in labels.items()
        ]
        where = f"{title}: " if title else ""
        found.append(f"{where}learning rates at which runs diverged or learned nothing: {'; '.join(parts)}.")
    return found


def _best(rows: Sequence[Row], measure: Measure, rates: str | None) -> str:
    """Return which norm is best, or that this is not resolved."""
    sign = -1 if measure.higher_is_better else 1
    known = sorted((row for row in rows if _estimate(row, measure)), key=lambda row: sign * _mean(row, measure))
    if not known:
        return "no run has completed."
    first = known[0]
    if len(known) == 1:
        return f"{first.label} reaches {_written(first, measure)}."
    return f"{_condition(known, rates)}, {_leader(known, measure)}"


def _condition(rows: Sequence[Row], tuned: str | None) -> str:
    """Return under what the ranking holds: a norm may do better at another learning rate than the one it had."""
    if tuned is not None:
        return f"under this protocol, {tuned}"
    rates = sorted({row.learning_rate for row in rows})
    if len(rates) == 1:
        return f"under this protocol, with one learning rate for all norms ({rates[0]:.3g})"
    return f"under this protocol, with learning rates set by norm ({rates[0]:.3g} to {rates[-1]:.3g})"


def _leader(known: Sequence[Row], measure: Measure) -> str:
    """Return which of several norms, best first, is best, or that this is not resolved."""
    highest, best = ("highest", "best") if measure.higher_is_better else ("lowest", "lowest")
    first, reached = known[0].label, _written(known[0], measure)
    leaders = [row for row in known if (rank := row.results[measure.name].rank) is not None and rank[0] == 1]
    if len(leaders) == 1:
        leader, reached = leaders[0].label, _written(leaders[0], measure)
        return f"{leader} is {best} with {reached}, resolved against the others at a joint confidence of 95 %."
    if not leaders:
        return (
            f"{first} has the {highest} {measure.header}, {reached}, but which norm is {best} is not resolved: "
            f"a verdict takes at least {MIN_SEEDS} seeds of each."
        )
    which = "which norm" if len(leaders) == len(known) else f"which of {listed(row.label for row in leaders)}"
    return f"{which} is {best} is not resolved; {first} has the {highest} mean, {reached}."


def _against_baseline(rows: Sequence[Row], measure: Measure, table: Table) -> str:
    """Return which norms are better or worse than the baseline, equivalent to it, or neither."""
    results = [(row, row.results[measure.name].comparison) for row in rows]
    compared = [(row, comparison) for row, comparison in results if comparison is not None]
    if not compared or max(row.num_completed for row in rows) < MIN_SEEDS:
        return ""
    words: list[tuple[Verdict, str]] = [
        ("better", verdict_word(measure, "better")),
        ("worse", verdict_word(measure, "worse")),
        ("equivalent", f"equivalent within {describe_margin(measure, table.margins[measure.name]).removeprefix('±')}"),
        ("not resolved", "not resolved"),
    ]
    parts = []
    for verdict, word in words:
        if labels := [row.label for row, comparison in compared if comparison.verdict == verdict]:
            parts.append(f"{listed(labels)} {word}")
    needed = sorted({found.seeds_to_resolve for _, found in compared if found.seeds_to_resolve is not None})
    span = f"{needed[0]} to {needed[-1]}" if len(needed) > 1 else "".join(map(str, needed))
    more = f" (to tell, plan a fresh comparison with about {span} seeds)" if needed else ""
    return f"Against {table.baseline}: {'; '.join(parts)}{more}."


def unfinished(section: Section) -> str:
    """Return how many planned runs gave no result and why; empty where all did."""
    states: Counter[str] = Counter(run.status.state for run in section.runs)
    missing = section.num_planned - states.pop("completed", 0)
    states["not started"] = section.num_planned - len(section.runs)
    parts = [f"{count} {state}" for state, count in states.items() if count]
    return f"{missing} of {section.num_planned} runs have no result: {', '.join(parts)}." if missing else ""


def _estimate(row: Row, measure: Measure) -> Estimate | None:
    return row.results[measure.name].estimate


def _mean(row: Row, measure: Measure) -> float:
    estimate = _estimate(row, measure)
    return estimate.mean if estimate else 0.0


def _written(row: Row, measure: Measure) -> str:
    """Write the row's result as ``91.23 ± 0.41 % (n=5)``."""
    unit = f" {measure.unit}" if measure.unit else ""
    return f"{format_estimate(_estimate(row, measure), measure)}{unit} (n={row.num_completed})"
