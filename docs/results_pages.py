"""Write pages of results from the records beside them: ``python docs/results_pages.py PAGE...`` (``make results``).

A record is the bundle (``NAME.nbz``) of an experiment; its path is relative to the page. What stands between
``<!-- NAME.nbz: WHAT -->`` and ``<!-- end -->`` is made of it, in a paragraph of its own or within a sentence; WHAT is
one of

    answer           what the rows let one say, in sentences; `answer 2` only those of the second table
    table            the comparison; `table 2` is the second one, say that of each norm at its own learning rate
    tests            the evidence behind its verdicts; also `tests 2`; of several measures the first, or `tests MEASURE`
    caption          what its numbers are; also `caption 2`
    rates            how much each norm minds the learning rate, where one was swept
    chapter ANCHOR   a chapter of the report with texts, figures and tables: tuning, spread, why, evaluation, robustness
    grid TITLE       one table of a chapter, by its title
    overview MORE... every norm in a row: at its own learning rate, at one for all, cost; each further bundle adds what
                     it has of batch size 1, corrupted images or each norm at its own rate in another network;
                     `overview MORE... of BN; GN` has these norms alone
    speed RECORD     accuracies and training seconds beside those that a JSON file has of airbench94, and its goal
    norms RECORD     each norm at its own learning rate: accuracies, seconds, and which reach the goal of the same file
    against OTHER    each norm's runs against its own runs in another bundle, paired by seed, and what else differs
    batch_one        each norm at batch size 1, beside the accuracy of the comparison itself
    claims FILE      the claims of a YAML file against the records that each names (docs/results_claims.py)
    measured         how it was measured: network, data, devices, versions, commit
    config           the experiment as a config, and the command that ran it
    figure NAME      the figure, written as PNG into a folder beside the page that is called like the page;
                     `figure NAME as FILE` where a page has figures of one name from two records
    probed NAME      what a paper claims of what probes measure, tested (docs/results_probes.py); `bands`: over rates
    evaluated NAME   what a paper claims of evaluations, tested (docs/results_evaluated.py)
    cell ROW, COLUMN the text of one cell of the table; also `cell 2 ROW, COLUMN`

A table with several settings, of batch sizes say, has several rows of a norm: `cell ROW | 64, COLUMN` is that of the
row in which some column reads 64.

Of what ``normbench bench infer`` recorded, whose path ends in ``.json``, there are `facts`, `tables`, `table TITLE` and
`figure` (docs/results_bench.py).

A number that is typed and that none of the page's records gives is found by `typed_numbers`, and fails the tests.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar

from results_bench import bench
from results_bench import everything as everything_of_bench
from results_claims import bundles_of, claims_table
from results_evaluated import CLAIMS as EVALUATED_CLAIMS
from results_probes import CLAIMS, band_claims, claims
from results_speed import norms, speed
from results_tables import against, batch_one, overview

from normbench.report.chapters import Chapter, Grid
from normbench.report.columns import (
    SENSITIVITY_HEADERS,
    columns,
    evidence_columns,
    norm_columns,
    sensitivity_caption,
    sensitivity_cells,
)
from normbench.report.comparison_table import Table
from normbench.report.figure_style import save_figure
from normbench.report.formats import markdown_columns, markdown_grid
from normbench.report.page import Report
from normbench.report.recorded_runs import load_experiments
from normbench.report.task_report import PageFigure

T = TypeVar("T")

_BLOCK = re.compile(r"(<!-- (\S+\.(?:nbz|json)): (.*?) -->)(.*?)(<!-- end -->)", re.DOTALL)
_CODE_AND_LINKS = re.compile(
    r"```.*?```|~~~.*?~~~|^    .*?$|`[^`]*`|\]\([^)]*\)|<!--.*?-->|https?://\S+", re.DOTALL | re.M
)
_NAMES = re.compile(r"arXiv[ :]*\d{4}\.\d{4,5}|[A-Za-z_]+[-\w.]*\d[\w.]*|\b(?:19|20)\d\d\b")
"""What has digits and is no number: CIFAR-10, fp32, H200, the id of a paper, a year."""
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def fill(page: Path, text: str, *, write_figures: bool = False) -> str:
    """Return the text of `page` with all between markers made anew, but for figures that are there, unless asked.

    Raises:
        RunError: a bundle cannot be read.
        ValueError: a marker asks for something that there is not.
    """

    def made(match: re.Match[str]) -> str:
        opening, bundle, what, old, closing = match.groups()
        if what.startswith("figure ") and not write_figures and _is_drawn(page, old):
            return match[0]  # to draw it takes seconds
        new = _made(page, page.parent / bundle, what.strip(), write_figures=write_figures)
        is_paragraph = "\n" in old or "\n" in new
        return f"{opening}\n\n{new}\n\n{closing}" if is_paragraph else f"{opening}{new}{closing}"

    return _BLOCK.sub(made, text)


def _is_drawn(page: Path, text: str) -> bool:
    found = re.match(r"!\[[^\]]*\]\(([^)]*)\)", text.strip())
    return found is not None and (page.parent / found[1]).is_file()


def typed_numbers(page: Path, text: str) -> list[str]:
    """Return the numbers of a page outside its markers, code and links that none of its records gives."""
    known = {float(number) for path in records_of(page, text) for number in _numbers(_everything(path))}
    known |= {float(number) for block in _BLOCK.finditer(text) for number in _numbers(block[4])}
    prose = _NAMES.sub(" ", _CODE_AND_LINKS.sub(" ", _BLOCK.sub(" ", text)))
    return [number for number in _numbers(prose) if float(number) not in known]


def records_of(page: Path, text: str) -> list[Path]:
    """Return the bundles that a page is made of."""
    named = [name for match in _BLOCK.finditer(text) for name in (match[2], *re.findall(r"\S+\.nbz", match[3]))]
    for file in re.findall(r": claims (\S+) -->", text):
        named += bundles_of(page.parent / file)
    return [page.parent / name for name in dict.fromkeys(named)]


def _numbers(text: str) -> list[str]:
    return [found.replace(",", "") for found in _NUMBER.findall(text)]


@cache
def _report(bundle: Path) -> Report:
    (experiment,) = load_experiments(bundle)
    return Report(experiment)


@cache
def _everything(bundle: Path) -> str:
    """Return all that a report says, and its config, or what a benchmark says."""
    if bundle.suffix == ".json":
        return everything_of_bench(bundle)
    report = _report(bundle)
    said = [report.config, report.title]
    for part in report.parts:
        table = part.table
        said += [*part.answers, part.unfinished, table.caption, table.cost_caption, *table.notes, *table.failures]
        said += [f"{name}: {value}" for name, value in part.measured]
        shown = [
            *columns(table),
            *(column for measure in table.measures for column in evidence_columns(table, measure)),
        ]
        said.append(markdown_columns(table.rows, [*norm_columns(table), *shown]))
    for chapter in report.chapters:
        said += [*chapter.text, *map(_grid, chapter.grids)]
    said += [cell for entry in report.sensitivities for cell in sensitivity_cells(entry)]
    return "\n".join(said)


def _made(page: Path, bundle: Path, what: str, *, write_figures: bool) -> str:
    if bundle.suffix == ".json":
        return bench(page, bundle, what, write_figures=write_figures)
    report = _report(bundle)
    kind, _, rest = what.partition(" ")
    if kind == "figure":
        name, _, file = rest.partition(" as ")
        return _figure(page, _named(page, what, report.figures, name), file or name, write=write_figures)
    if kind in ("probed", "evaluated"):
        return claims(report, _one_of(page, what, CLAIMS if kind == "probed" else EVALUATED_CLAIMS, rest))
    if kind == "bands":
        return band_claims(report)
    if kind == "overview":
        more, _, labels = f" {rest}".partition(" of ")
        names = [label.strip() for label in labels.split(";") if label.strip()]
        return overview(report, [_report(page.parent / name) for name in more.split()], names)
    if kind == "speed":
        return speed(report, page.parent / rest)
    if kind == "norms":
        return norms(report, page.parent / rest)
    if kind == "against":
        return against(report, _report(page.parent / rest))
    if kind == "batch_one":
        return batch_one(report)
    if kind == "claims":
        return claims_table(page.parent / rest, lambda name: _report(page.parent / name))
    if kind == "chapter":
        chapters = {chapter.anchor: chapter for chapter in report.chapters}
        return _chapter(page, _one_of(page, what, chapters, rest), write=write_figures)
    if kind == "grid":
        grids = {grid.title: grid for chapter in report.chapters for grid in chapter.grids}
        return _grid(_one_of(page, what, grids, rest))
    if kind == "rates":
        cells = [sensitivity_cells(entry) for entry in report.sensitivities]
        aligns = ["left", *["right"] * (len(SENSITIVITY_HEADERS) - 1)]
        return f"{markdown_grid([list(SENSITIVITY_HEADERS), *cells], aligns)}\n\n{sensitivity_caption()}"  # type: ignore[arg-type]
    if kind == "config":
        return "\n\n".join(["\n".join(f"    {command}" for command in report.commands), f"```yaml\n{report.config}```"])
    return _of_part(page, report, what)


def _of_part(page: Path, report: Report, what: str) -> str:
    kind, _, rest = what.partition(" ")
    number = re.match(r"(\d+)\s*", rest)
    index = int(number[1]) - 1 if number else 0
    rest = rest[number.end() :] if number else rest
    if not index < len(report.parts):
        raise ValueError(f"{page}: {what}: there are {len(report.parts)} tables")
    part = report.parts[index]
    table = part.table
    if kind == "answer":
        parts = [part] if number else report.parts
        return "\n".join(f"- On {part.data}: {answer}" for part in parts for answer in part.answers)
    if kind == "table":
        return markdown_columns(table.rows, columns(table))
    if kind == "tests":
        measures = {measure.name: measure for measure in table.measures}
        measure = _one_of(page, what, measures, rest or table.measures[0].name)
        return markdown_columns(table.rows, [*norm_columns(table), *evidence_columns(table, measure)])
    if kind == "caption":
        return f"{table.caption} {table.cost_caption}"
    if kind == "measured":
        return "\n".join(f"- {name}: {value}" for name, value in part.measured)
    if kind == "cell":
        return _cell(page, table, rest)
    raise ValueError(f"{page}: {what}: no such thing can be made of {report.title}")


def _one_of(page: Path, what: str, known: Mapping[str, T], name: str) -> T:
    if name not in known:
        raise ValueError(f"{page}: {what}: there are {', '.join(known)}")
    return known[name]


def _named(page: Path, what: str, figures: Iterable[PageFigure], name: str) -> PageFigure:
    return _one_of(page, what, {figure.name: figure for figure in figures}, name)


def _figure(page: Path, figure: PageFigure, file: str, *, write: bool) -> str:
    folder = page.with_suffix("")
    if write:
        folder.mkdir(exist_ok=True)
        save_figure(figure.figure, folder / file, (".png",))
    return f"![{figure.title}]({folder.name}/{file}.png)\n\n{figure.caption}"


def _chapter(page: Path, chapter: Chapter, *, write: bool) -> str:
    return "\n\n".join(
        [
            *chapter.text,
            *(_figure(page, figure, figure.name, write=write) for figure in chapter.figures),
            *(f"**{grid.title}**\n\n{_grid(grid)}" for grid in chapter.grids),
        ]
    )


def _grid(grid: Grid) -> str:
    aligns = ["left", *["right"] * (len(grid.headers) - 1)]
    written = markdown_grid([list(grid.headers), *map(list, grid.rows)], aligns)  # type: ignore[arg-type]
    return f"{written}\n\n{grid.caption}" if grid.caption else written


def _cell(page: Path, table: Table, what: str) -> str:
    name, _, header = (part.strip() for part in what.rpartition(","))
    label, _, setting = (part.strip() for part in name.partition("|"))
    shown = columns(table)
    rows = [row for row in table.rows if row.label == label]
    row = next((row for row in rows if not setting or setting in [column.cell(row) for column in shown]), None)
    column = next((column for column in shown if column.header == header), None)
    if row is None or column is None:
        headers = "; ".join(column.header for column in shown)
        labels = ", ".join(dict.fromkeys(row.label for row in table.rows))
        raise ValueError(f"{page}: cell {what}: rows are {labels}; columns are {headers}")
    return column.cell(row)


def main(pages: Iterable[str]) -> None:
    """Write the pages anew, figures too, and say which numbers no record gives."""
    for page in map(Path, pages):
        text = page.read_text(encoding="utf-8")
        if records_of(page, text):
            filled = fill(page, text, write_figures=True)
            page.write_text(filled, encoding="utf-8")
            for number in typed_numbers(page, filled) if page.parent.name == "results" else ():
                print(f"{page}: {number} is in none of its records")


if __name__ == "__main__":
    main(sys.argv[1:])
