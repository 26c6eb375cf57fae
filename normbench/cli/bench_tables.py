"""The tables of ``normbench bench`` on a terminal, in several parts where it is too narrow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from normbench.cli.console import available_width, natural_width, print_table, table

if TYPE_CHECKING:
    from rich.table import Table

    from normbench.bench.folder import Results
    from normbench.bench.tables import BenchColumn, BenchTable


def print_tables(results: Results) -> None:
    """Print title, facts and tables."""
    from rich.console import Console
    from rich.text import Text

    from normbench.bench.folder import facts_of, tables_of, title_of

    console = Console(soft_wrap=True)
    console.print(Text(title_of(results), style="bold"))
    for fact in facts_of(results):
        console.print(Text(fact))
    for shown in tables_of(results):
        _print_table(shown)


def _print_table(shown: BenchTable) -> None:
    from rich.console import Console
    from rich.text import Text

    console, width = Console(), available_width()
    console.print()
    console.print(Text(shown.title, style="bold"))
    for part in _parts(shown.columns, width):
        print_table(_render(part))
    for note in shown.notes:
        console.print(Text(note, style="dim"), soft_wrap=width is None)


def _parts(columns: Sequence[BenchColumn], width: int | None) -> list[list[BenchColumn]]:
    """Return groups of columns that `width` holds, each beginning with those that name the row."""
    from normbench.report.formats import split_columns

    keys = [column for column in columns if column.is_key]
    others = groupby((column for column in columns if not column.is_key), lambda column: column.group)
    return split_columns(
        keys, (list(group) for _, group in others), lambda part: width is None or natural_width(_render(part)) <= width
    )


def _render(columns: Sequence[BenchColumn]) -> Table:
    from rich.text import Text

    found = table(*(column.header for column in columns))
    for drawn, column in zip(found.columns, columns, strict=True):
        drawn.justify = column.align
    for cells in zip(*(column.cells for column in columns), strict=True):
        found.add_row(*map(Text, cells))
    return found
