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
from normbench.report.page import Page, PageTable
from normbench.report.sweeps import Sensitivity


def page_to_markdown(page: Page) -> str:
    """Return the report; figures are linked as ``<name>.png`` in the same folder."""
    lines = [f"# {escape_markdown(page.title)}", ""]
    for part in page.tables:
        lines += _answers(part, several=len(page.tables) > 1)
    lines += _figures(page, is_sweep=True)
    for part in page.tables:
        table = part.table
        shown = [*norm_columns(table), *result_columns(table), RUNS]
        lines += [f"## Results{_suffix(part, page)}", "", markdown_columns(table.rows, shown), ""]
        lines += [escape_markdown(table.caption), "", *_bullets(table.notes)]
    for part in page.tables:
        if part.table.has_tests:
            shown = [*norm_columns(part.table), *evidence_columns(part.table)]
            lines += [f"## Tests{_suffix(part, page)}", "", markdown_columns(part.table.rows, shown), ""]
            lines += [escape_markdown(TESTS_CAPTION), ""]
    if page.sensitivities:
        lines += ["## Learning-rate sensitivity", "", _sensitivities(page.sensitivities), "", sensitivity_caption(), ""]
    lines += _figures(page, is_sweep=False)
    for part in page.tables:
        shown = [*norm_columns(part.table), *cost_columns(part.table)]
        lines += [f"## Cost{_suffix(part, page)}", "", markdown_columns(part.table.rows, shown), ""]
        lines += [escape_markdown(part.table.cost_caption), ""]
    for part in page.tables:
        if part.table.failures:
            lines += [f"## Runs without a result{_suffix(part, page)}", "", *_bullets(part.table.failures)]
    for part in page.tables:
        facts = [f"{name}: {value}" for name, value in part.measured]
        lines += [f"## How it was measured{_suffix(part, page)}", "", *_bullets(facts)]
    return "\n".join(lines)


def _figures(page: Page, *, is_sweep: bool) -> list[str]:
    lines = []
    for figure in page.figures:
        if figure.is_sweep == is_sweep:
            lines += [f"## {figure.title}", "", f"![{figure.title}]({figure.name}.png)", "", figure.caption, ""]
    return lines


def _bullets(texts: Sequence[str]) -> list[str]:
    """Return a list with an empty line after it; nothing for no texts."""
    return [*(f"- {escape_markdown(text)}" for text in texts), ""] if texts else []


def _answers(part: PageTable, *, several: bool) -> list[str]:
    lines = [f"**{escape_markdown(part.table.title)}**", ""] if several else []
    said = [escape_markdown(text) for text in part.answers]
    opening = f"On {part.data}: "
    lines += [opening + said[0]] if len(said) == 1 else [opening.rstrip(), "", *(f"- {text}" for text in said)]
    return [*lines, *(["", part.unfinished] if part.unfinished else []), ""]


def _suffix(part: PageTable, page: Page) -> str:
    return f": {escape_markdown(part.table.title)}" if len(page.tables) > 1 else ""


def _sensitivities(entries: tuple[Sensitivity, ...]) -> str:
    cells = [[escape_markdown(cell) for cell in sensitivity_cells(entry)] for entry in entries]
    aligns: list[Align] = ["left", "right", "right", "right", "right", "right", "right"]
    return markdown_grid([list(SENSITIVITY_HEADERS), *cells], aligns)
