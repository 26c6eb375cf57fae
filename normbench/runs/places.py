"""Takes out of what is recorded where on a machine things lay: absolute paths, which hold names of users and hosts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_QUOTED = re.compile(r"""(?<!\w)(["'])(?:[A-Za-z]:)?[/\\](?P<above>(?:[^/\\'"\n]+[/\\])*)(?P<name>[^/\\'"\n]*)\1""")
"""An absolute path in quotation marks, which may have spaces in it."""
_BARE = re.compile(
    r"""(?<![\w.:/\\~])                                     # not within a relative path, a URL or a fraction
    (?:file://|[A-Za-z]:(?=[/\\])|\\(?=\\)|~\w*(?=/))?[/\\]
    (?P<above>(?:[^\s/\\'"<>|]+[/\\])*)(?P<name>[^\s/\\'"<>|]+)[/\\]?""",
    re.VERBOSE,
)
_HOMES = ("home/", "Users/", "Users\\")
"""The folders whose folders are called like users."""


def without_places(value: Any) -> Any:
    """Return `value`, plain data, with only the last part of every absolute path in its texts: ``.../cifar10.npz``.

    A path with spaces is recognized in quotation marks only.
    """
    if isinstance(value, str):
        text = _QUOTED.sub(lambda found: f"{found[1]}{_last_part(found)}{found[1]}", value)
        return _BARE.sub(_last_part, text)
    if isinstance(value, Mapping):
        return {key: without_places(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(inner) for inner in value]
    return value


def _last_part(found: re.Match[str]) -> str:
    return "..." if found["above"] in _HOMES else f".../{found['name']}"
