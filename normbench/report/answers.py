"""The answer in a sentence: what the rows of one setting let one say, and what not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import inf

from normbench.report.columns import format_percent
from normbench.report.figure_style import setting_title
from normbench.report.grouping import Section, Setting
from normbench.report.sweeps import Sensitivity
from normbench.report.table import Row, Table
from normbench.report.verdicts import MIN_SEEDS, Verdict


def answers(table: Table) -> list[str]:
    """Return one answer a setting, each naming its setting where there are several."""
    by_setting: dict[Setting, list[Row]] = {}
    for row in table.rows:
        by_setting.setdefault(row.setting, []).append(row)
    several = len(by_setting) > 1
    if several and all(row.num_completed < MIN_SEEDS for row in table.rows):
        return [
            f"which norm is best is not resolved at any setting: a verdict takes at least {MIN_SEEDS} seeds of each."
        ]
    found = []
    for setting, rows in by_setting.items():
        where = f"{setting_title(setting)}: " if several else ""
        found.append(where + " ".join(filter(None, [_best(rows), _against_baseline(rows, table)])))
    return found


def stability(entries: Sequence[Sensitivity]) -> list[str]:
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
            f"{_listed(names)} nowhere up to {top:.3g}" if rate is None else f"{_listed(names)} from {rate:.3g} on"
            for rate, names in labels.items()
        ]
        where = f"{title}: " if title else ""
        found.append(f"{where}learning rates at which runs diverged or learned nothing: {'; '.join(parts)}.")
    return found


def _best(rows: Sequence[Row]) -> str:
    """Say which norm is best, or that this is not resolved."""
    known = sorted((row for row in rows if row.accuracy), key=lambda row: -_mean(row))
    if not known:
        return "no run has completed."
    first = known[0]
    if len(known) == 1:
        return f"{first.label} reaches {_accuracy(first)}."
    return f"{_condition(known)}, {_leader(known)}"


def _condition(rows: Sequence[Row]) -> str:
    """Say under what the ranking holds: a norm may do better at another learning rate than the one it had."""
    rates = sorted({row.learning_rate for row in rows})
    if len(rates) == 1:
        return f"under this protocol, with one learning rate for all norms ({rates[0]:.3g})"
    return f"under this protocol, with learning rates set by norm ({rates[0]:.3g} to {rates[-1]:.3g})"


def _leader(known: Sequence[Row]) -> str:
    """Say which of several norms, best first, is best, or that this is not resolved."""
    first = known[0]
    leaders = [row for row in known if row.rank is not None and row.rank[0] == 1]
    if len(leaders) == 1:
        best = leaders[0]
        return (
            f"{best.label} is best with {_accuracy(best)}, resolved against the others at a joint confidence of 95 %."
        )
    if not leaders:
        return (
            f"{first.label} has the highest test accuracy, {_accuracy(first)}, but which norm is best is not resolved: "
            f"a verdict takes at least {MIN_SEEDS} seeds of each."
        )
    if len(leaders) == len(known):
        return f"which norm is best is not resolved; {first.label} has the highest mean, {_accuracy(first)}."
    names = _listed(row.label for row in leaders)
    return f"which of {names} is best is not resolved; {first.label} has the highest mean, {_accuracy(first)}."


def _against_baseline(rows: Sequence[Row], table: Table) -> str:
    """Say which norms are better or worse than the baseline, equivalent to it, or neither."""
    compared = [(row, row.comparison) for row in rows if row.comparison is not None]
    if not compared or max(row.num_completed for row in rows) < MIN_SEEDS:
        return ""
    words: list[tuple[Verdict, str]] = [
        ("better", "better"),
        ("worse", "worse"),
        ("equivalent", f"equivalent within {100 * table.margin:g} points"),
        ("not resolved", "not resolved"),
    ]
    parts = []
    for verdict, word in words:
        if labels := [row.label for row, comparison in compared if comparison.verdict == verdict]:
            parts.append(f"{_listed(labels)} {word}")
    needed = sorted({found.seeds_to_resolve for _, found in compared if found.seeds_to_resolve is not None})
    span = f"{needed[0]} to {needed[-1]}" if len(needed) > 1 else "".join(map(str, needed))
    more = f" (to tell, plan a fresh comparison with about {span} seeds)" if needed else ""
    return f"Against {table.baseline}: {'; '.join(parts)}{more}."


def unfinished(section: Section) -> str:
    """Say how many planned runs gave no result and why; empty where all did."""
    states: Counter[str] = Counter(run.status.state for run in section.runs)
    missing = section.num_planned - states.pop("completed", 0)
    states["not started"] = section.num_planned - len(section.runs)
    parts = [f"{count} {state}" for state, count in states.items() if count]
    return f"{missing} of {section.num_planned} runs have no result: {', '.join(parts)}." if missing else ""


def _mean(row: Row) -> float:
    return row.accuracy.mean if row.accuracy else 0.0


def _accuracy(row: Row) -> str:
    return f"{format_percent(row.accuracy)} % (n={row.num_completed})"


def _listed(words: Iterable[str]) -> str:
    """Write ``a, b and c``."""
    *rest, last = list(words)
    return f"{', '.join(rest)} and {last}" if rest else last
