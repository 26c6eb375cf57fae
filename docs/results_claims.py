"""Claims of others held against records: each is a comparison that was written down in a YAML file, and one family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from normbench.report.columns import columns, format_estimate, format_p
from normbench.report.formats import markdown_grid
from normbench.report.grouping import Group, Section
from normbench.report.page import Report
from normbench.report.stats import CONFIDENCE, summarize
from normbench.report.verdicts import Evidence, Outcomes, judge, weigh
from normbench.tasks import Measure

ReadReport = Callable[[str], Report]


def claims_table(path: Path, read: ReadReport) -> str:
    """Return a row per claim and experiment: what was measured, the p value, and the verdict.

    A claim that one result is `higher` or `lower` than another is confirmed where the difference is resolved that way,
    and refuted where it is resolved the other way or both are equivalent; that two are `equal` the other way round.
    That a result `reaches` a number is judged by its 95 % interval. All comparisons of the file are one family for
    Holm's adjustment. Results are of the task's first measure unless a claim names another as its `measure`.

    Raises:
        ValueError: more is better in one measure of the file and worse in another, or a claim names what is not there.
    """
    claims = read_claims(path)
    evidence = {
        (number, place): found
        for number, claim in enumerate(claims)
        for place, records in enumerate(claim.get("records", ()))
        if "reaches" not in claim and (found := _evidence(claim, records, read)) is not None
    }
    directions = {
        _measure(claims[number], claims[number]["records"][place], read).higher_is_better for number, place in evidence
    }
    if len(directions) > 1:
        raise ValueError(f"{path}: a family is of measures of which more is better, or less, not of both")
    higher_is_better = directions != {False}
    verdicts = judge(evidence, higher_is_better=higher_is_better, can_plan=False)
    lines = [["claim", "source", "records", "measured", "p", "verdict"]]
    for number, claim in enumerate(claims):
        said = [str(claim["claim"]), str(claim["source"])]
        for kind, word in (("untested", "not tested fairly"), ("unmeasured", "not measured")):
            if kind in claim:
                lines.append([*said, "-", str(claim[kind]), "-", word])
        for place, records in enumerate(claim.get("records", ())):
            name = str(records).removesuffix(".nbz").replace(".nbz ", ", table ")
            if "reaches" in claim:
                lines.append([*said, name, *_reached(claim, records, read)])
                continue
            found = verdicts.get((number, place))
            if found is None:
                lines.append([*said, name, "-", "-", "not measured"])
                continue
            claimed = "better" if ("higher" in claim) == higher_is_better else "worse"
            is_claimed = found.verdict == ("equivalent" if "equal" in claim else claimed)
            resolved = "confirmed" if is_claimed else "refuted"
            p = found.equivalence_p if found.verdict == "equivalent" or "equal" in claim else found.holm_p
            measure = _measure(claim, records, read)
            difference = format_estimate(found.difference.estimate, measure, sign=True)
            verdict = "not resolved" if found.verdict == "not resolved" else resolved
            lines.append([*said, name, f"{difference} {measure.difference_unit}".rstrip(), format_p(p), verdict])
    return markdown_grid(lines, ["left", "left", "left", "right", "right", "left"])


def read_claims(path: Path) -> Sequence[Mapping[str, Any]]:
    """Return the claims of a file."""
    return list(yaml.safe_load(path.read_text(encoding="utf-8")))


def bundles_of(path: Path) -> list[str]:
    """Return the names of the bundles that the claims of a file are held against."""
    return list(dict.fromkeys(str(name).split()[0] for claim in read_claims(path) for name in claim.get("records", ())))


def _evidence(claim: Mapping[str, Any], records: str, read: ReadReport) -> Evidence | None:
    section, measure = _section(records, read), _measure(claim, records, read)
    first, second = claim.get("equal") or (claim.get("higher") or claim["lower"], claim["than"])
    groups = [_group(section, read(records.split()[0]), name) for name in (first, second)]
    margin = read(records.split()[0]).tables[_index(records)].margins[measure.name]
    mean = summarize(list(groups[1].scores(measure).values()))
    margin = measure.raw_margin(margin, mean.mean if mean else None)
    return weigh(*(Outcomes(group.scores(measure), group.lost) for group in groups), margin=margin)


def _reached(claim: Mapping[str, Any], records: str, read: ReadReport) -> list[str]:
    measure = _measure(claim, records, read)
    group = _group(_section(records, read), read(records.split()[0]), claim["norm"])
    estimate = summarize(list(group.scores(measure).values()))
    if estimate is None or estimate.half_width is None:
        return ["-", "-", "not measured"]
    low, high = (measure.scale * (estimate.mean + sign * estimate.half_width) for sign in (-1, 1))
    aim = float(claim["reaches"])
    verdict = "confirmed" if low >= aim else "refuted" if high < aim else "not resolved"
    return [f"{format_estimate(estimate, measure)} % ({CONFIDENCE:.0%} interval)", "-", verdict]


def _group(section: Section, report: Report, name: str) -> Group:
    """Return the group that ``LABEL`` or ``LABEL | VALUE OF A SETTING`` names."""
    label, _, value = (part.strip() for part in name.partition("|"))
    found = [group for group in section.groups if group.label == label]
    table = report.tables[report.sections.index(section)]
    shown = columns(table)
    for group in found:
        row = next(row for row in table.rows if (row.label, row.setting) == (group.label, group.setting))
        if not value or value in [column.cell(row) for column in shown]:
            return group
    raise ValueError(f"{name}: the norms are {', '.join(dict.fromkeys(group.label for group in section.groups))}")


def _index(records: str) -> int:
    return int(records.split()[1]) - 1 if " " in records else 0


def _section(records: str, read: ReadReport) -> Section:
    return read(records.split()[0]).sections[_index(records)]


def _measure(claim: Mapping[str, Any], records: str, read: ReadReport) -> Measure:
    measures = {measure.name: measure for measure in read(records.split()[0]).tables[_index(records)].measures}
    name = claim.get("measure", next(iter(measures)))
    if name not in measures:
        raise ValueError(f"{name}: the measures are {', '.join(measures)}")
    return measures[name]
