"""``normbench merge``: several parts of an experiment become one."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer


def merge(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="Experiments' folders, or bundles.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A new folder, or a bundle (NAME.nbz).")],
) -> None:
    """Join parts of an experiment that were run apart: other norms, other seeds, other devices.

    The same run in two sources is one run if its records are equal, and an error if not. Runs of different devices
    stand in different tables.

    Example: normbench merge runs/part1 part2.nbz -o runs/whole
    """
    from normbench.bundle.description import Credit
    from normbench.bundle.merge import merge as merge_experiments
    from normbench.bundle.write import write_bundle
    from normbench.runs.bundle_file import SUFFIX

    if output.suffix == SUFFIX:
        with TemporaryDirectory(prefix="normbench-") as temporary:
            found = merge_experiments(sources, Path(temporary) / output.stem)
            write_bundle(found.folder, output, Credit())
    else:
        found = merge_experiments(sources, output)
    repeated = f", {found.num_repeated} of them in more than one source" if found.num_repeated else ""
    print(f"{output}: {found.num_runs} runs{repeated}")
