"""What ``normbench bench infer`` recorded, as parts of docs/results/inference.md."""

from __future__ import annotations

from pathlib import Path

from normbench.bench.dot_plot import draw_infer
from normbench.bench.folder import facts_of
from normbench.bench.results import InferResults
from normbench.bench.tables import BenchTable, infer_tables
from normbench.report.figure_style import save_figure
from normbench.report.formats import escape_markdown, markdown_grid


def bench(page: Path, record: Path, what: str, *, write_figures: bool) -> str:
    """Return a part of a page: ``facts``, ``table TITLE``, ``tables`` or ``figure``, which is written beside the page.

    Raises:
        ValueError: there is no such part.
    """
    results = InferResults.model_validate_json(record.read_text(encoding="utf-8"))
    tables = {table.title: table for table in infer_tables(results)}
    kind, _, rest = what.partition(" ")
    if what == "facts":
        return "\n".join(f"- {escape_markdown(fact)}" for fact in facts_of(results))
    if what == "tables":
        return "\n\n".join(f"**{title}**\n\n{_grid(table)}" for title, table in tables.items())
    if kind == "table" and rest in tables:
        return _grid(tables[rest])
    figure = draw_infer(results) if what == "figure" else None
    if figure is None:
        raise ValueError(f"{page}: {what}: there are facts, tables, figure and table {', table '.join(tables)}")
    folder = page.with_suffix("")
    if write_figures:
        folder.mkdir(exist_ok=True)
        save_figure(figure, folder / record.stem, (".png",))
    return f"![Networks in use]({folder.name}/{record.stem}.png)"


def everything(record: Path) -> str:
    """Return all numbers that a page may name: those of the tables and facts."""
    results = InferResults.model_validate_json(record.read_text(encoding="utf-8"))
    return "\n".join([*facts_of(results), *map(_grid, infer_tables(results))])


def _grid(table: BenchTable) -> str:
    columns = [[escape_markdown(text) for text in (column.header, *column.cells)] for column in table.columns]
    return markdown_grid(list(zip(*columns, strict=True)), [column.align for column in table.columns])
