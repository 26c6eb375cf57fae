"""The report as Markdown: the same content as the HTML page, figures beside it as PNG files."""

from __future__ import annotations

from collections.abc import Sequence

from normbench.report.columns import (
    RUNS,
    SENSITIVITY_HEADERS,
    TESTS_CAPTION,
    Align,
    cost_columns,
    evidence_columns,
    norm_columns,
    result_columns,
    sensitivity_caption,
    sensitivity_cells,
)
from normbench.report.formats import escape_markdown, markdown_columns, markdown_grid
from normbench.report.page import PagePart, Report
from normbench.report.sweeps import Sensitivity
from normbench.report.task_report import PageFigure


def report_to_markdown(report: Report) -> str:
    """Return the report; figures are linked as ``<name>.png`` in the same folder."""
    lines = [f"# {escape_markdown(report.title)}", ""]
    for part in report.parts:
        lines += _answers(part, several=len(report.parts) > 1)
    lines += _figures(report, is_sweep=True)
    for part in report.parts:
        table = part.table
        shown = [*norm_columns(table), *result_columns(table), RUNS]
        lines += [f"## Results{_suffix(part, report)}", "", markdown_columns(table.rows, shown), ""]
        lines += [escape_markdown(table.caption), "", *_bullets(table.notes)]
    for part in report.parts:
        lines += _tests(part, report)
    if report.sensitivities:
        lines += [
            "## Learning-rate sensitivity",
            "",
            _sensitivities(report.sensitivities),
            "",
            sensitivity_caption(),
            "",
        ]
    lines += _figures(report, is_sweep=False)
    lines += _chapters(report, is_cost=False)
    for part in report.parts:
        shown = [*norm_columns(part.table), *cost_columns(part.table)]
        lines += [f"## Cost{_suffix(part, report)}", "", markdown_columns(part.table.rows, shown), ""]
        lines += [escape_markdown(part.table.cost_caption), ""]
    lines += _chapters(report, is_cost=True)
    for part in report.parts:
        if part.table.failures:
            lines += [f"## Runs without a result{_suffix(part, report)}", "", *_bullets(part.table.failures)]
    for part in report.parts:
        facts = [f"{name}: {value}" for name, value in part.measured]
        lines += [f"## How it was measured{_suffix(part, report)}", "", *_bullets(facts)]
    if report.result_id:
        lines += [f"Result id (SHA-256 over the records): `{report.result_id}`", ""]
    return "\n".join(lines)


def _tests(part: PagePart, report: Report) -> list[str]:
    """Return a table of tests for each measure that has any."""
    lines = []
    for measure in part.table.tested_measures:
        of_measure = f": {escape_markdown(measure.header)}" if len(part.table.measures) > 1 else ""
        shown = [*norm_columns(part.table), *evidence_columns(part.table, measure)]
        lines += [f"## Tests{_suffix(part, report)}{of_measure}", "", markdown_columns(part.table.rows, shown), ""]
    return [*lines, escape_markdown(TESTS_CAPTION), ""] if lines else []


def _figures(report: Report, *, is_sweep: bool) -> list[str]:
    return [
        line
        for figure in report.task_figures
        if figure.is_sweep == is_sweep
        for line in (f"## {escape_markdown(figure.title)}", "", *_drawn(figure))
    ]


def _drawn(figure: PageFigure) -> list[str]:
    return [f"![{escape_markdown(figure.title)}]({figure.name}.png)", "", figure.caption, ""]


def _chapters(report: Report, *, is_cost: bool) -> list[str]:
    lines = []
    for chapter in report.chapters:
        if chapter.is_cost != is_cost:
            continue
        lines += [f"## {escape_markdown(chapter.title)}", ""]
        for text in chapter.text:
            lines += [escape_markdown(text), ""]
        for figure in chapter.figures:
            lines += [f"### {escape_markdown(figure.title)}", "", *_drawn(figure)]
        for grid in chapter.grids:
            cells = [[escape_markdown(cell) for cell in row] for row in (grid.headers, *grid.rows)]
            aligns: list[Align] = ["left", *["right"] * (len(grid.headers) - 1)]  # type: ignore[list-item]
            lines += [f"### {escape_markdown(grid.title)}", "", markdown_grid(cells, aligns), ""]
            lines += [escape_markdown(grid.caption), ""] if grid.caption else []
    return lines


def _bullets(texts: Sequence[str]) -> list[str]:
    """Return a list with an empty line after it; nothing for no texts."""
    return [*(f"- {escape_markdown(text)}" for text in texts), ""] if texts else []


def _answers(part: PagePart, *, several: bool) -> list[str]:
    lines = [f"**{escape_markdown(part.table.title)}**", ""] if several else []
    said = [escape_markdown(text) for text in part.answers]
    opening = f"On {escape_markdown(part.data)}: "
    lines += [opening + said[0]] if len(said) == 1 else [opening.rstrip(), "", *(f"- {text}" for text in said)]
    return [*lines, *(["", part.unfinished] if part.unfinished else []), ""]


def _suffix(part: PagePart, report: Report) -> str:
    return f": {escape_markdown(part.table.title)}" if len(report.parts) > 1 else ""


def _sensitivities(entries: tuple[Sensitivity, ...]) -> str:
    cells = [[escape_markdown(cell) for cell in sensitivity_cells(entry)] for entry in entries]
    aligns: list[Align] = ["left", "right", "right", "right", "right", "right", "right"]
    return markdown_grid([list(SENSITIVITY_HEADERS), *cells], aligns)
