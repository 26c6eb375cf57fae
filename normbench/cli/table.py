"""``normbench table``: the comparison table on stdout, in any format."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from normbench.cli.completion import one_of, run_folders
from normbench.cli.options import BaselineOption, FamilyOption, JsonOption, MarginOption, SpreadOption, given


def table(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER...", help="Experiments' folders, folders of those, or bundles.", autocompletion=run_folders
        ),
    ],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="text, md, latex, latex-narrow, csv, tsv or json.",
            autocompletion=one_of("text", "md", "latex", "latex-narrow", "csv", "tsv", "json"),
        ),
    ] = "text",
    baseline: BaselineOption = None,
    margin: MarginOption = 0.5,
    family: FamilyOption = None,
    spread: SpreadOption = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say below a table how each of its numbers is made.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Print the comparison tables of recorded experiments.

    text, md and latex (latex-narrow fits one column) are for people (bold: resolved to be best); csv, tsv and json hold
    raw numbers, accuracies as fractions.

    Example: normbench table runs/tutorial --format latex > table.tex
    """
    from normbench.cli.console import note, print_comparison
    from normbench.report.recorded_runs import format_tables, load_tables

    left_out: list[str] = []
    analysis = given({"family": family, "spread": spread})
    tables = load_tables(folders, baseline=baseline, margin=margin / 100, analysis=analysis, tell=left_out.append)
    format_ = "json" if json_output else format_
    if format_ == "text":
        for found in tables:
            print_comparison(found, explain=explain)
    else:
        sys.stdout.write(format_tables(tables, format_))
        if format_ in ("csv", "tsv"):  # which have no place for notes
            for text in dict.fromkeys(text for found in tables for text in found.notes):
                note(f"normbench: {text}")
    for text in left_out:
        note(f"normbench: {text}")
    if left_out:
        raise typer.Exit(1)
