"""Printing: results to stdout, progress to stderr, tables that are never cut in a pipe."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def print_table(table: Table) -> None:
    """Print a table to stdout: fitted to a terminal, as wide as it needs in a pipe (unless COLUMNS says otherwise)."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        width = Console(width=10_000).measure(table).maximum
        console = Console(width=width)
    console.print(table)


def note(text: str) -> None:
    """Print a line of information to stderr."""
    print(text, file=sys.stderr, flush=True)
