"""``normbench check``: the contract of a norm, line by line."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from normbench.cli.options import JsonOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from normbench.inspection.contract import Check

_MARKS = {"ok": "ok", "fails": "FAILS", "not checked": "-"}


def check(
    norm: Annotated[str, typer.Argument(metavar="NORM", help="./mynorm.py:MyNorm, package.module:name, or gn.")],
    norm_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the norm, such as groups=8.")
    ] = None,
    channels: Annotated[int, typer.Option(min=1, help="Channels, or features of a token.")] = 64,
    sequence: Annotated[bool, typer.Option("--sequence", help="A norm of token sequences, (N, T, D).")] = False,
    against: Annotated[
        str | None, typer.Option(metavar="NORM", help="Compare outputs and gradients with this norm instead.")
    ] = None,
    against_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the norm that it is compared with.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Check a norm of your own: shapes, dtypes, gradients, batches, checkpoints, compiler, CUDA graph.

    Exits with 0 if all that can be checked here holds, and with 1 if something does not; with --against, with 0 if both
    norms compute the same.

    Examples: normbench check ./mynorm.py:MyNorm; normbench check ./mynorm.py:MyNorm --against gn
    """
    from normbench.config.load import parse_options
    from normbench.errors import ConfigError
    from normbench.inspection.contract import check_norm
    from normbench.worker.own import named_norm, named_sequence_norm

    make = named_sequence_norm if sequence else named_norm
    factory = make(norm, **parse_options("--norm-option", norm_option or []))
    if against is not None:
        if sequence:
            raise ConfigError("--against compares norms of images; it does not go with --sequence")
        other = named_norm(against, **parse_options("--against-option", against_option or []))
        _compare(factory, other, channels, json_output)
        return
    if against_option:
        raise ConfigError("--against-option needs --against")
    checks = check_norm(factory, channels)
    failed = [entry for entry in checks if entry.verdict == "fails"]
    if json_output:
        rows = [asdict(entry) for entry in checks]
        print(json.dumps({"schema_version": 1, "norm": norm, "passes": not failed, "checks": rows}, indent=2))
    else:
        _print(norm, channels, checks)
    raise typer.Exit(1 if failed else 0)


def _compare(factory: object, other: object, channels: int, json_output: bool) -> None:
    from normbench.cli.inspect_tables import print_agreement
    from normbench.inspection.agreement import compare_norms
    from normbench.norms import NormFactory

    assert isinstance(factory, NormFactory)
    assert isinstance(other, NormFactory)
    agreement = compare_norms(factory, other, (4, channels, 8, 8))
    if json_output:
        print(json.dumps({"schema_version": 1, **asdict(agreement), "agrees": agreement.agrees}, indent=2))
    else:
        print_agreement(agreement)
    raise typer.Exit(0 if agreement.agrees else 1)


def _print(norm: str, channels: int, checks: Sequence[Check]) -> None:
    from rich.text import Text

    from normbench.cli.console import print_table, table

    shown = table("check", "", "measured", "if it fails", title=f"{norm} with {channels} channels")
    for entry in checks:
        number = "" if entry.number is None else f"{entry.number:.3g} "
        row = (entry.name, _MARKS[entry.verdict], number + entry.measured, entry.if_it_fails)
        shown.add_row(*map(Text, row))
    print_table(shown)
    counts = {verdict: sum(entry.verdict == verdict for entry in checks) for verdict in _MARKS}
    not_checked = f", {counts['not checked']} not checked here" if counts["not checked"] else ""
    print(f"{counts['ok']} of {len(checks)} hold, {counts['fails']} fail{not_checked}.")
