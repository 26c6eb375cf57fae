"""The tables of ``normbench bench`` on a terminal, in several parts where it is too narrow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from normbench.cli.console import print_table

if TYPE_CHECKING:
    from rich.table import Table

    from normbench.bench.folder import Results
    from normbench.bench.tables import BenchTable, Column


def print_tables(results: Results) -> None:
    """Print title, facts and tables."""
    from rich.console import Console
    from rich.text import Text

    from normbench.bench.folder import facts_of, tables_of, title_of

    console = Console(soft_wrap=True)
    console.print(Text(title_of(results), style="bold"))
    for fact in facts_of(results):
        console.print(Text(fact))
    for table in tables_of(results):
        _print_table(table)


def _print_table(table: BenchTable) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    is_limited = console.is_terminal or "COLUMNS" in os.environ
    console.print()
    console.print(Text(table.title, style="bold"))
    for part in _parts(table.columns, console.width if is_limited else None):
        print_table(_render(part))
    for note in table.notes:
        console.print(Text(note, style="dim"), soft_wrap=not is_limited)


def _parts(columns: Sequence[Column], width: int | None) -> list[list[Column]]:
    """Return groups of columns as large as `width` allows, each beginning with those that name the row."""
    from rich.console import Console

    measuring = Console(width=10_000)
    keys = [column for column in columns if column.is_key]
    parts: list[list[Column]] = []
    for _, members in groupby((column for column in columns if not column.is_key), lambda column: column.group):
        group = list(members)
        if parts and (width is None or measuring.measure(_render([*parts[-1], *group])).maximum <= width):
            parts[-1] += group
        else:
            parts.append([*keys, *group])
    return parts or [keys]


def _render(columns: Sequence[Column]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(Text(column.header), justify=column.align, overflow="fold")
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*(Text(cell) for cell in cells))
    return table
