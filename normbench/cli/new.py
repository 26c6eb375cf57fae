"""``normbench new``: a commented file to begin one's own norm or network with."""

from __future__ import annotations

import os
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer


class Kind(StrEnum):
    """What can be begun."""

    norm = "norm"
    model = "model"


def new(
    kind: Annotated[Kind, typer.Argument(metavar="norm|model", help="What the file is to hold.")],
    path: Annotated[Path, typer.Argument(metavar="FILE.py", help="The file to write; it must not exist.")],
) -> None:
    """Write a commented file with a norm or a network that works, to be changed.

    Example: normbench new norm mynorm.py
    """
    from normbench.errors import ConfigError, FolderError

    if path.suffix != ".py":
        raise ConfigError(f"{path}: the name must end in .py")
    text = files("normbench.cli").joinpath("templates", f"{kind}.py.txt").read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path}: is there already; nothing is written over it") from None
    except OSError as error:
        raise FolderError(f"{path}: cannot be written: {error.strerror}") from None
    shown = path if path.parent != Path() else Path(os.curdir, path)
    name = f"./{shown.name}" if shown.parent == Path() else str(shown)
    if kind is Kind.norm:
        print(f"{path}: MyNorm\n\n  normbench check {name}:MyNorm\n  normbench compare bn gn {name}:MyNorm")
    else:
        print(f"{path}: MyNet\n\n  normbench compare bn gn --model {name}:MyNet")
