"""Printing: results to stdout, progress to stderr, tables that are never cut in a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from normbench.report.comparison_table import Table as ComparisonTable
    from normbench.report.sweeps import Sensitivity


MIN_WORDS_WIDTH = 80
"""Columns of the words below a table in a pipe, where the table itself is narrower."""


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
    """Print a table to stdout: fitted to a terminal, as wide as it needs in a pipe (unless COLUMNS says otherwise).

    In a pipe without the empty lines around it and the blanks at its lines' ends.
    """
    from rich.console import Console

    console = Console(width=available_width() or natural_width(table))
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n"))


def print_comparison(comparison: ComparisonTable, *, explain: bool = False) -> None:
    """Print a comparison table to stdout, in several parts where a terminal or COLUMNS is too narrow for it."""
    from rich.console import Console
    from rich.text import Text

    from normbench.report.formats import render_terminal, table_words

    parts = render_terminal(comparison, available_width())
    console = Console(width=available_width() or max(MIN_WORDS_WIDTH, *map(natural_width, parts)))
    for part in parts:
        print_table(part)
        if not console.is_terminal:  # where a table ends in an empty line
            print()
    console.print(Text(table_words(comparison, explain=explain), style="dim"))


def print_sensitivities(entries: Sequence[Sensitivity]) -> None:
    """Print what a learning-rate sweep found: each norm's best rate, and the range in which it does about as well."""
    from normbench.report.columns import SENSITIVITY_HEADERS, sensitivity_cells

    shown = table(*SENSITIVITY_HEADERS, right=SENSITIVITY_HEADERS[1:], title="Learning rates")
    for entry in entries:
        shown.add_row(*sensitivity_cells(entry))
    print_table(shown)


def counted(count: int, noun: str) -> str:
    """Write a count with its noun: ``1 run``, ``3 runs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def note(text: str) -> None:
    """Print a line to stderr."""
    print(text, file=sys.stderr, flush=True)
