"""Tables of the pages of results that are made of several: each norm in a row, and one experiment against another."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from typing import Any

from normbench.report.batch_one import CHANCE, BatchOne, Stability, batch_one_probe, norm_key
from normbench.report.columns import columns, format_estimate, format_p, format_rank, format_stability, verdict_text
from normbench.report.comparison_table import Row, Table
from normbench.report.formats import markdown_grid
from normbench.report.page import Report
from normbench.report.stats import summarize
from normbench.report.verdicts import Comparison, Outcomes, judge, weigh
from normbench.tasks import Measure

_COSTS = ("time", "peak", "at batch size 1", "diverged", "runs")
_NO_BASELINE = {"better": "higher", "worse": "lower"}
"""Where neither side is a baseline, neither is better."""
_MEAN = "mean of the norms"


def overview(report: Report, more: Sequence[Report] = (), labels: Collection[str] = ()) -> str:
    """Return a row per norm, the best at its own learning rate first: both accuracies, rank, cost.

    Reports `more` that have a verdict at batch size 1, errors on corrupted images, or accuracies at each norm's own
    learning rate (say of another network) add a column of them. With `labels`, only those norms are shown; ranks stay
    those among all.
    """
    by_rates = {section.rates: table for section, table in zip(report.sections, report.tables, strict=True)}
    shared, own = by_rates.get("one for all"), by_rates.get("each its own")
    main = own or shared or report.tables[0]
    measure = main.measures[0]
    beside = {row.label: row for row in shared.rows} if own and shared else {}
    kept = [column for column in columns(main) if column.header.startswith(_COSTS)]
    others = [found for other in more for found in _columns_of(other)]
    lines = [
        ["norm", f"{measure.header} ({measure.unit})", *(["learning rate"] if own else []), "rank",
         *(f"at {row.learning_rate:.3g} for all" for row in list(beside.values())[:1]),
         *(column.header for column in kept), *(header for header, _ in others)]
    ]  # fmt: skip
    for row in sorted(main.rows, key=lambda row: _place(row, measure)):
        if not labels or row.label in labels:
            tuned = [f"{row.learning_rate:.3g}"] if own else []
            at_shared = [_accuracy(beside.get(row.label), measure)] if beside else []
            rank = format_rank(row.results[measure.name].rank)
            cells = [row.label, _accuracy(row, measure), *tuned, rank, *at_shared]
            lines.append(
                [*cells, *(column.cell(row) for column in kept), *(by.get(row.label, "-") for _, by in others)]
            )
    return markdown_grid(lines, ["left", *["right"] * (len(lines[0]) - 1)])


def against(report: Report, other: Report) -> str:
    """Return by how much each norm is above its own result in `other`, paired by seed, and the tests of the verdict.

    Of several norms, the last row is their mean, seed by seed. The p values are Holm-adjusted over all rows; equivalent
    means within the measure's margin. A sentence below names every recorded setting, version and commit in which the
    two differ, since any of them may be the cause.
    """
    table, measure = report.tables[0], report.tables[0].measures[0]
    sides = [
        {group.label: Outcomes(group.scores(measure), group.lost) for group in found.sections[0].groups}
        for found in (report, other)
    ]
    common = [label for label in sides[0] if label in sides[1]]
    if len(common) > 1:
        sides = [{**side, _MEAN: _mean([side[label] for label in common])} for side in sides]
    evidence = {
        label: found
        for label in sides[0].keys() & sides[1].keys()
        if (found := weigh(sides[0][label], sides[1][label], table.margins[measure.name]))
    }
    names = [f"{found.title} ({measure.unit})" for found in (report, other)]
    lines = [["norm", *names, f"difference ({measure.difference_unit})", "pairs", "p", "equivalence p", "verdict"]]
    verdicts = judge(evidence, higher_is_better=measure.higher_is_better)
    for label in sides[0]:
        if label in verdicts:
            means = [format_estimate(summarize(list(side[label].scores.values())), measure) for side in sides]
            lines.append([label, *means, *_compared(verdicts[label], measure, table)])
    grid = markdown_grid(lines, ["left", *["right"] * (len(lines[0]) - 2), "left"])
    return f"{grid}\n\n{_what_differs(report, other)}"


def _mean(outcomes: Sequence[Outcomes]) -> Outcomes:
    """Return the mean over norms at each seed that all of them completed."""
    seeds = set.intersection(*(set(found.scores) for found in outcomes))
    scores = {seed: fmean(found.scores[seed] for found in outcomes) for seed in sorted(seeds)}
    return Outcomes(scores, frozenset().union(*(found.lost for found in outcomes)))


def batch_one(report: Report) -> str:
    """Return a row per norm, the best at batch size 1 first, `none` among them, and each verdict's norms in a sentence.

    Raises:
        ValueError: the experiment measured nothing at batch size 1.
    """
    table, measure = report.tables[0], report.tables[0].measures[0]
    probe = batch_one_probe(report.experiment, report.sections[0])
    if probe is None or probe.best_accuracy is None:
        raise ValueError(f"{report.title} has no result at batch size 1")
    labels = {norm_key(run.config.norm): run.config.label for run in report.experiment.probes}
    found = {labels[key]: one for key, one in probe.by_norm.items() if one.accuracy}
    ordered = sorted(found, key=lambda label: -found[label].accuracy.mean)  # type: ignore[union-attr]
    at_64 = {row.label: row for row in table.rows}
    lines = [
        ["norm", f"evaluation mode ({measure.unit})", f"each test image by its own statistics ({measure.unit})",
         f"share of {probe.best_label}'s gain ({measure.unit})", "verdict", "comparison's batch size (%)"],
        *(
            [label, format_estimate(found[label].accuracy, measure),
             format_estimate(found[label].batch_statistics_accuracy, measure),
             f"{100 * _gain(found[label]) / (probe.best_accuracy - CHANCE):.0f}",
             format_stability(found[label]), _accuracy(at_64.get(label), measure)]
            for label in ordered
        ),
    ]  # fmt: skip
    grid = markdown_grid(lines, ["left", "right", "right", "right", "left", "right"])
    return f"{grid}\n\n{_by_verdict({label: found[label] for label in ordered})}"


def _gain(found: BatchOne) -> float:
    return (found.accuracy.mean if found.accuracy else 0.0) - CHANCE


def _by_verdict(found: Mapping[str, BatchOne]) -> str:
    """Return the norms of each verdict that is resolved, and those that other seeds might give another one."""
    verdicts: Sequence[Stability] = ("stable", "degraded", "collapsed")
    sure = {verdict: [label for label, one in found.items() if one.possible == (verdict,)] for verdict in verdicts}
    parts = [f"{verdict} {', '.join(labels)}" for verdict, labels in sure.items() if labels]
    open_ones = [label for label, one in found.items() if len(one.possible) > 1]
    near = f"Near a line, so that other seeds might say otherwise: {', '.join(open_ones) or 'none'}."
    return f"Resolved: {'; '.join(parts) or 'none'}. {near}"


def _compared(found: Comparison, measure: Measure, table: Table) -> list[str]:
    estimate = found.difference.estimate
    verdict = _NO_BASELINE.get(found.verdict) or verdict_text(found, measure, table.margins[measure.name])
    difference = format_estimate(estimate, measure, sign=True)
    return [difference, str(estimate.n), format_p(found.holm_p), format_p(found.equivalence_p), verdict]


def _what_differs(report: Report, other: Report) -> str:
    """Write the facts that the runs behind both tables do not share, but for the days of measuring."""
    ours, theirs = (dict(found.parts[0].measured) for found in (report, other))
    names = [name for name in {**ours, **theirs} if name != "measured" and ours.get(name) != theirs.get(name)]
    differing = "; ".join(f"{name} ({ours.get(name, '-')} and {theirs.get(name, '-')})" for name in names)
    commit = f" Both are of commit {ours['commit']}." if "commit" in {*ours, *theirs} - {*names} else ""
    return f"Recorded facts that differ between {report.title} and {other.title}: {differing or 'none'}.{commit}"


def _columns_of(report: Report) -> list[tuple[str, dict[str, str]]]:
    """Return what a report adds to the overview: a header, and the cells by label."""
    at_one = {row.label: format_stability(row.batch_one) for row in report.tables[0].rows if row.batch_one}
    found: list[tuple[str, dict[str, str]]] = [("batch size 1", at_one)] if at_one else []
    grids: list[Any] = [grid for chapter in report.chapters for grid in chapter.grids]
    for grid in grids:
        if grid.title == "Mean corruption error":
            place = grid.headers.index("mean corruption error (%)")
            found.append((grid.headers[place], {row[0]: row[place] for row in grid.rows}))
    for section, table in zip(report.sections, report.tables, strict=True):
        if section.rates == "each its own":
            measure, network = table.measures[0], dict(report.parts[0].measured)["model"]
            accuracies = {row.label: _accuracy(row, measure) for row in table.rows}
            found.append((f"in {network} ({measure.unit})", accuracies))
    return found


def _place(row: Row, measure: Measure) -> float:
    estimate = row.results[measure.name].estimate
    return (-1 if measure.higher_is_better else 1) * estimate.mean if estimate else float("inf")


def _accuracy(row: Row | None, measure: Measure) -> str:
    return format_estimate(row.results[measure.name].estimate if row else None, measure)
