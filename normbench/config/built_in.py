"""The configs that come with the program: inside an installed package, or beside it in a checkout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from normbench.errors import ConfigError, suggestion


def built_in_configs() -> Mapping[str, Path]:
    """Return the built-in config files by name, without ``.yaml``."""
    package = Path(__file__).resolve().parent.parent
    folders = (package.parent / "configs", package / "configs")
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}


def find_config(name: str) -> Path:
    """Return the config file called `name`: a path, or a built-in config with or without ``configs/`` and ``.yaml``.

    Raises:
        ConfigError: there is none.
    """
    path = Path(name)
    try:
        if path.is_file():
            return path
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from None
    built_in = built_in_configs()
    if path.stem in built_in and path.parent in (Path(), Path("configs")) and path.suffix in ("", ".yaml"):
        return built_in[path.stem]
    if path.suffix and path.parent != Path():
        return path  # reading it names the files near it
    hint = suggestion(path.stem, built_in)
    raise ConfigError(f"{name}: no such config file, and no built-in config of that name{hint}")
