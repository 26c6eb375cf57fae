"""One way to find what a literal registry names, without importing it before it is used. Needs no torch."""

from __future__ import annotations

import importlib
from typing import Any


def load(target: str) -> Any:
    """Import and return ``"package.module:name"``."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
