"""``normbench verify``: whether a bundle is what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normbench.cli.options import DataDirOption, JsonOption

if TYPE_CHECKING:
    from normbench.bundle.verify import Verification


def verify(
    file: Annotated[Path, typer.Argument(help="A bundle, such as tutorial.nbz.")],
    rerun: Annotated[
        int, typer.Option(metavar="N", min=0, help="Train N runs, drawn at random, again and compare them.")
    ] = 0,
    rerun_seed: Annotated[int | None, typer.Option(help="Draw the same runs again.", min=0)] = None,
    run_code: Annotated[
        bool, typer.Option("--run-code", help="Also draw runs made of their author's own code, and execute it.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="Where to train again; if absent, as recorded.")] = None,
    data_dir: DataDirOption = None,
    json_output: JsonOption = False,
) -> None:
    """Check a bundle: checksums, consistency of the records, and every table again from the records.

    Exit code 0 if all of it holds, 1 if not. Trains nothing without --rerun, and needs no torch then.

    Example: normbench verify tutorial.nbz --rerun 2
    """
    from normbench.bundle.verify import verify as verify_bundle

    found = verify_bundle(file)
    if rerun and found.verified:
        from normbench.bundle.rerun import rerun_some

        found = rerun_some(found, rerun, seed=rerun_seed, device=device, data_dir=data_dir, run_code=run_code)
    if json_output:
        print(json.dumps(found.as_json(), indent=2))
    else:
        _print(found)
    if not found.verified:
        raise typer.Exit(1)


def _print(found: Verification) -> None:
    from normbench.errors import shown

    for check in found.checks:
        print(f"{'ok    ' if check.passed else 'FAILED'}  {check.name}" + (f": {check.said}" if check.said else ""))
        for problem in check.problems:
            print(f"          {shown(problem)}")
    for text in found.notes:
        print(f"note    {shown(text)}")
    print(f"{found.file}: {'verified' if found.verified else 'NOT verified'}, {found.num_runs} runs")
    if found.result_id:
        print(f"result id {found.result_id}")
