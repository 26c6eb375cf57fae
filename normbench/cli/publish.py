"""``normbench publish``: a verified bundle goes where others find it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def publish(
    file: Annotated[Path, typer.Argument(help="A bundle, such as tutorial.nbz.")],
    to: Annotated[str, typer.Option(metavar="PLACE", help="hf:ORG/REPO (a data set on the Hub) or zenodo.")],
    yes: Annotated[bool, typer.Option("--yes", help="Really send it; without, only say what would be sent.")] = False,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Zenodo's place for trying.")] = False,
    private: Annotated[bool, typer.Option("--private", help="A new repository on the Hub that only you see.")] = False,
) -> None:
    r"""Verify a bundle and publish it; without --yes nothing is sent.

    The token is read from HF_TOKEN or ZENODO_TOKEN. The Hub needs `pip install 'normbench\[publish]'`.

    Example: normbench publish tutorial.nbz --to hf:my-group/norms
    """
    from normbench.bundle.publish import place_of, plan_publication
    from normbench.bundle.publish import publish as send

    place = place_of(to, sandbox=sandbox, private=private)
    planned = plan_publication(file, place)
    print(f"verified: {planned.result_id}")
    print(f"{planned.bundle} ({planned.bundle.stat().st_size:,} bytes), '{planned.title}' -> {planned.target}")
    if not yes:
        print(f"Nothing was sent. With --yes, and {place.token_variable} set, it is.")
        return
    published = send(planned, place)
    print(f"{published.url}" + (f"\nDOI {published.doi}" if published.doi else ""))
    if published.remark:
        print(published.remark)
    print(planned.bibtex(published))
