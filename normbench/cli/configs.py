"""``normbench configs``: the configs that come with the program, and a copy of one to change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from normbench.cli.options import JsonOption

app = typer.Typer(help="List the built-in configs, or copy one to change it.", invoke_without_command=True)


@app.callback()
def _list(context: typer.Context, json_output: JsonOption = False) -> None:
    """List the built-in configs, or copy one to change it. `normbench compare NAME` runs one from any folder."""
    if context.invoked_subcommand is None:
        from normbench.cli.listing import configs

        configs(json_output)


@app.command()
def copy(
    name: Annotated[str, typer.Argument(help="A built-in config, such as tutorial.")],
    path: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Where to; if absent, NAME.yaml here.", show_default=False)
    ] = None,
) -> None:
    """Write a built-in config into a file of yours; nothing is written over.

    Example: normbench configs copy tutorial mine.yaml
    """
    from normbench.config.built_in import built_in_configs
    from normbench.errors import ConfigError, FolderError
    from normbench.registry import find

    text = find("config", name.removesuffix(".yaml"), built_in_configs()).read_text(encoding="utf-8")
    target = path or Path(f"{name.removesuffix('.yaml')}.yaml")
    if target.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{target}: the name must end in .yaml")
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{target}: is there already; nothing is written over it") from None
    except OSError as error:
        raise FolderError(f"{target}: cannot be written: {error.strerror}") from None
    print(f"{target}\n\n  normbench compare {target if target.parent != Path() else f'./{target}'}")
