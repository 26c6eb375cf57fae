"""Write pages of results from the records beside them: ``python docs/results_pages.py PAGE...`` (``make results``).

A record is the bundle (``NAME.nbz``) of an experiment. What stands between ``<!-- NAME.nbz: WHAT -->`` and
``<!-- end -->`` is made of it, in a paragraph of its own or within a sentence; WHAT is one of

    answer           what the rows let one say, in sentences
    table            the comparison; `table 2` is the second one, say that of each norm at its own learning rate
    tests            the evidence behind its verdicts; also `tests 2`
    caption          what its numbers are; also `caption 2`
    overview         every norm in a row: at its own learning rate, at one for all, cost, batch size 1
    measured         how it was measured: network, data, devices, versions, commit
    figure NAME      the figure, written as PNG into a folder beside the page that is called like the page
    cell ROW, COLUMN the text of one cell of the table; also `cell 2 ROW, COLUMN`

A number that is typed and that none of the page's records gives is found by `typed_numbers`, and fails the tests.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from normbench.report.columns import Column, columns, evidence_columns, format_estimate, format_rank, norm_columns
from normbench.report.comparison_table import Row, Table
from normbench.report.figure_style import save_figure
from normbench.report.formats import markdown_columns, markdown_grid
from normbench.report.markdown import report_to_markdown
from normbench.report.page import Report
from normbench.report.recorded_runs import load_experiments

_BLOCK = re.compile(r"(<!-- (\S+\.nbz): (.*?) -->)(.*?)(<!-- end -->)", re.DOTALL)
_CODE_AND_LINKS = re.compile(
    r"```.*?```|~~~.*?~~~|^    .*?$|`[^`]*`|\]\([^)]*\)|<!--.*?-->|https?://\S+", re.DOTALL | re.M
)
_NAMES = re.compile(r"arXiv[ :]*\d{4}\.\d{4,5}|[A-Za-z_]+[-\w.]*\d[\w.]*|\b(?:19|20)\d\d\b")
"""What has digits and is no number: CIFAR-10, fp32, H200, the id of a paper, a year."""
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def fill(page: Path, text: str, *, write_figures: bool = False) -> str:
    """Return the text of `page` with everything between markers made anew.

    Raises:
        RunError: a bundle cannot be read.
        ValueError: a marker asks for something that there is not.
    """

    def made(match: re.Match[str]) -> str:
        opening, bundle, what, old, closing = match.groups()
        new = _made(page, page.parent / bundle, what.strip(), write_figures=write_figures)
        is_paragraph = "\n" in old or "\n" in new
        return f"{opening}\n\n{new}\n\n{closing}" if is_paragraph else f"{opening}{new}{closing}"

    return _BLOCK.sub(made, text)


def typed_numbers(page: Path, text: str) -> list[str]:
    """Return the numbers of a page outside its markers, code and links that none of its records gives."""
    known = {float(number) for path in records_of(page, text) for number in _numbers(_everything(path))}
    prose = _NAMES.sub(" ", _CODE_AND_LINKS.sub(" ", _BLOCK.sub(" ", text)))
    return [number for number in _numbers(prose) if float(number) not in known]


def records_of(page: Path, text: str) -> list[Path]:
    """Return the bundles that a page is made of."""
    return [page.parent / name for name in dict.fromkeys(match[2] for match in _BLOCK.finditer(text))]


def _numbers(text: str) -> list[str]:
    return [found.replace(",", "") for found in _NUMBER.findall(text)]


@cache
def _report(bundle: Path) -> Report:
    (experiment,) = load_experiments(bundle)
    return Report(experiment)


@cache
def _everything(bundle: Path) -> str:
    """Return all that a report says, and its config."""
    report = _report(bundle)
    return f"{report_to_markdown(report)}\n{report.config}"


def _made(page: Path, bundle: Path, what: str, *, write_figures: bool) -> str:
    report = _report(bundle)
    kind, _, rest = what.partition(" ")
    number = re.match(r"(\d+)\s*", rest)
    index = int(number[1]) - 1 if number else 0
    rest = rest[number.end() :] if number else rest
    if kind == "figure":
        return _figure(page, report, rest, write=write_figures)
    if kind == "overview":
        return overview(report)
    if not index < len(report.parts):
        raise ValueError(f"{page}: {what}: {bundle.name} has {len(report.parts)} tables")
    part = report.parts[index]
    table = part.table
    if kind == "answer":
        return "\n".join(f"- On {part.data}: {answer}" for answer in part.answers)
    if kind == "table":
        return markdown_columns(table.rows, columns(table))
    if kind == "tests":
        measure = table.measures[0]
        return markdown_columns(table.rows, [*norm_columns(table), *evidence_columns(table, measure)])
    if kind == "caption":
        return f"{table.caption} {table.cost_caption}"
    if kind == "measured":
        return "\n".join(f"- {name}: {value}" for name, value in part.measured)
    if kind == "cell":
        return _cell(page, table, rest)
    raise ValueError(f"{page}: {what}: no such thing can be made of {bundle.name}")


def _figure(page: Path, report: Report, name: str, *, write: bool) -> str:
    found = next((figure for figure in report.figures if figure.name == name), None)
    if found is None:
        raise ValueError(f"{page}: figure {name}: there are {', '.join(figure.name for figure in report.figures)}")
    if write:
        folder = page.with_suffix("")
        folder.mkdir(exist_ok=True)
        save_figure(found.figure, folder / name, (".png",))
    return f"![{found.title}]({page.stem}/{name}.png)\n\n{found.caption}"


def _cell(page: Path, table: Table, what: str) -> str:
    label, _, header = (part.strip() for part in what.partition(","))
    row = next((row for row in table.rows if row.label == label), None)
    column = next((column for column in columns(table) if column.header == header), None)
    if row is None or column is None:
        headers = "; ".join(column.header for column in columns(table))
        labels = ", ".join(row.label for row in table.rows)
        raise ValueError(f"{page}: cell {what}: rows are {labels}; columns are {headers}")
    return column.cell(row)


def overview(report: Report) -> str:
    """Return a row per norm, the best at its own learning rate first: both accuracies, rank, cost, batch size 1."""
    by_rates = {section.rates: table for section, table in zip(report.sections, report.tables, strict=True)}
    shared = by_rates.get("one for all") or report.tables[0]
    own = by_rates.get("each its own")
    main = own or shared
    measure = main.measures[0]
    beside = {row.label: row for row in shared.rows}
    sign = -1 if measure.higher_is_better else 1

    def place(row: Row) -> float:
        estimate = row.results[measure.name].estimate
        return sign * estimate.mean if estimate else float("inf")

    def accuracy(row: Row | None) -> str:
        return format_estimate(row.results[measure.name].estimate if row else None, measure)

    shown: list[tuple[str, Column | None]] = [(column.header, column) for column in columns(main)]
    kept = [
        column
        for header, column in shown
        if column and (header.startswith(("time", "peak", "at batch size 1")) or header in ("diverged", "runs"))
    ]
    header = ["norm", f"{measure.header} ({measure.unit})", "rank"]
    header[2:2] = ["learning rate", f"at {shared.rows[0].learning_rate:.3g}"] if own else []
    lines = [[*header, *(column.header for column in kept)]]
    for row in sorted(main.rows, key=place):
        cells = [row.label, accuracy(row), format_rank(row.results[measure.name].rank)]
        cells[2:2] = [f"{row.learning_rate:.3g}", accuracy(beside.get(row.label))] if own else []
        lines.append([*cells, *(column.cell(row) for column in kept)])
    return markdown_grid(lines, ["left", *["right"] * (len(lines[0]) - 1)])


def main(pages: Iterable[str]) -> None:
    """Write the pages anew, figures too, and say which numbers no record gives."""
    for page in map(Path, pages):
        text = page.read_text(encoding="utf-8")
        if records_of(page, text):
            filled = fill(page, text, write_figures=True)
            page.write_text(filled, encoding="utf-8")
            for number in typed_numbers(page, filled):
                print(f"{page}: {number} is in none of its records")


if __name__ == "__main__":
    main(sys.argv[1:])
