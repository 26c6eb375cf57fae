"""Printing: results to stdout, progress to stderr, tables that are never cut in a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from normbench.report.comparison_table import Table as ComparisonTable


def table(*header: str, right: Collection[str] = (), title: str | None = None) -> Table:
    """Return an empty table in the style of all commands, with the columns named in `right` aligned to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    found = Table(box=SIMPLE_HEAD, pad_edge=False, title=title and Text(title, style="bold"), title_justify="left")
    for name in header:
        found.add_column(Text(name), justify="right" if name in right else "left", overflow="fold")
    return found


def available_width() -> int | None:
    """Return how many characters a line of stdout has: those of the terminal, or of COLUMNS; None in a pipe."""
    from rich.console import Console

    console = Console()
    return console.width if console.is_terminal or "COLUMNS" in os.environ else None


def natural_width(table: Table) -> int:
    """Return how wide `table` is if no cell wraps."""
    from rich.console import Console

    return Console(width=10_000).measure(table).maximum


def print_table(table: Table) -> None:
    """Print a table to stdout: fitted to a terminal, as wide as it needs in a pipe (unless COLUMNS says otherwise)."""
    from rich.console import Console

    Console(width=available_width() or natural_width(table)).print(table)


def print_comparison(comparison: ComparisonTable) -> None:
    """Print a comparison table to stdout, in several parts where a terminal or COLUMNS is too narrow for it."""
    from normbench.report.formats import render_terminal

    for part in render_terminal(comparison, available_width()):
        print_table(part)


def note(text: str) -> None:
    """Print a line to stderr."""
    print(text, file=sys.stderr, flush=True)
