"""Bounds on what a config may say and on what it may ask of this machine, checked before anything is made of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from normbench.errors import CONTROL_CHARACTER, ConfigError

MAX_TEXT_BYTES = 512 * 2**10
"""The most bytes of a config file, or of one value on the command line."""
MAX_YAML_NODES = 20_000
"""Values and keys of a YAML text; where an alias stands, all that it refers to counts again."""
MAX_VALUES = 250_000
"""Values of a whole config, which a script may give as a mapping."""
MAX_DEPTH = 20
MAX_INTEGER = 2**63 - 1
MAX_SEEDS = 1_000_000
MAX_RUNS = 100_000
"""The most runs of one experiment, unless ``--max-runs`` allows more."""


def first_problem(data: Any) -> tuple[tuple[str | int, ...], str] | None:
    """Return path and fault of a value of `data` that is beyond the bounds, whatever it is meant for; else None."""
    left: list[tuple[tuple[str | int, ...], Any]] = [((), data)]
    num_values = 1
    while left:
        path, value = left.pop()
        if len(path) > MAX_DEPTH:
            return path[:3], f"values are nested more than {MAX_DEPTH} levels deep"
        texts = (value, *path[-1:])
        if any(isinstance(text, str) and CONTROL_CHARACTER.search(text) for text in texts):
            return path, f"{value!r:.60} is not allowed: text has neither control characters nor line breaks"
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            return path, f"the number is too large: an integer is at most {MAX_INTEGER}"
        if isinstance(value, Mapping | list | tuple):
            num_values += len(value)
            if num_values > MAX_VALUES:
                return path, f"the config has more than {MAX_VALUES:,} values"
            entries = value.items() if isinstance(value, Mapping) else enumerate(value)
            left += [((*path, key if isinstance(key, int) else str(key)), inner) for key, inner in entries]
    return None


def parse_count(text: str) -> int | None:
    """Return the whole number from 1 that `text` is; None if it is none, or beyond the bounds."""
    text = text.strip()
    is_number = text.isascii() and text.isdecimal() and len(text) < len(str(MAX_INTEGER))
    return int(text) or None if is_number else None


def check_memory(num_bytes: float, what: str) -> None:
    """Raise `ConfigError` if `what`, which takes `num_bytes` at least, cannot fit into this machine's memory."""
    available = memory_bytes()
    if num_bytes > available:
        raise ConfigError(
            f"{what}: at least {num_bytes / 2**30:,.0f} GiB of memory; this machine has {available / 2**30:,.0f}"
        )


@cache
def memory_bytes() -> int:
    """Return how much memory the machine has, or as much of it as the container may use."""
    limits = [MAX_INTEGER]
    with suppress(AttributeError, ValueError, OSError):  # not on Windows
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):  # no control group, or no limit in it
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return min(limit for limit in limits if limit > 0)
