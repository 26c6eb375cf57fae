"""``normbench bundle``: a result in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from normbench.cli.options import JsonOption


def bundle(
    folder: Annotated[Path, typer.Argument(help="An experiment's folder, such as runs/tutorial.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file; if absent, NAME.nbz in the current folder.")
    ] = None,
    author: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="'Family, Given', or an organization's name; may be given several times."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="The result's title.")] = None,
    license_: Annotated[
        str, typer.Option("--license", metavar="SPDX", help="The licence of the records, by its SPDX identifier.")
    ] = "CC-BY-4.0",
    small: Annotated[
        bool,
        typer.Option("--small", help="Without files of figures, and compressed by LZMA, which fewer programs unpack."),
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Pack an experiment into one file: records, report, versions, citation, checksums; the same input, the same bytes.

    Example: normbench bundle runs/tutorial -o tutorial.nbz --author 'Doe, Jane'
    """
    from normbench.bundle.description import Credit
    from normbench.bundle.write import experiment_name, write_bundle
    from normbench.errors import ConfigError
    from normbench.runs.bundle_file import SUFFIX

    path = output or Path(experiment_name(folder) + SUFFIX)
    if path.suffix != SUFFIX:
        raise ConfigError(f"--output {path}: a bundle's name ends in {SUFFIX}")
    found = write_bundle(folder, path, Credit(tuple(author or ()), title, license_), is_small=small)
    if json_output:
        facts = {"schema_version": 1, "file": str(found.path), "result_id": found.result_id, "num_runs": found.num_runs}
        print(json.dumps(facts | {"num_bytes": found.num_bytes}, indent=2))
    else:
        print(f"{found.path}: {found.num_runs} runs, {found.num_bytes:,} bytes\nresult id {found.result_id}")
