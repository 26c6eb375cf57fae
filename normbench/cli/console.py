"""Printing: results to stdout, progress to stderr, tables that are never cut in a pipe."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from normbench.report.table import Table as ComparisonTable


def print_table(table: Table) -> None:
    """Print a table to stdout: fitted to a terminal, as wide as it needs in a pipe (unless COLUMNS says otherwise)."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        width = Console(width=10_000).measure(table).maximum
        console = Console(width=width)
    console.print(table)


def print_comparison(table: ComparisonTable) -> None:
    """Print a comparison table to stdout, in several parts where a terminal or COLUMNS is too narrow for it."""
    from rich.console import Console

    from normbench.report.formats import render_terminal

    console = Console()
    is_limited = console.is_terminal or "COLUMNS" in os.environ
    for part in render_terminal(table, console.width if is_limited else None):
        print_table(part)


def note(text: str) -> None:
    """Print a line of information to stderr."""
    print(text, file=sys.stderr, flush=True)
