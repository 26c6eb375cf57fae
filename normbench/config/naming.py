"""The name of an experiment that is asked for in one line, so that another question gets another folder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

MAX_LENGTH = 64
_IN_NAME = {"model": "", "dataset": "", "train.epochs": "e", "train.batch_size": "bs", "train.lr": "lr"}
"""Fields that a name spells out, where they are given, each with the letters before its value."""
_SAME_QUESTION = ("norms", "name", "seeds", "seed", "device", "baseline", "analysis")
"""Fields that ask nothing else: more seeds, say, go on with the same experiment."""


def question_name(data: Mapping[str, Any]) -> str:
    """Return the name of a config that has none: ``bn_gn_gn+ws-resnet9-e5``.

    What it does not spell out enters as six digits of a hash; so does all of it where the name would be too long.
    """
    rest = {key: value for key, value in _flat(data).items() if key not in _SAME_QUESTION}
    parts = ["_".join(map(_word, data.get("norms") or ["compare"]))]
    for field, prefix in _IN_NAME.items():
        if isinstance(rest.get(field), str | int | float):
            parts.append(prefix + _slug(str(rest.pop(field))))
    if rest or _has_options(data):
        parts.append(_hash({"norms": data.get("norms"), **rest}))
    name = "-".join(parts)
    if len(name) > MAX_LENGTH:
        name = f"{name[: MAX_LENGTH - 7]}-{_hash(data)}"
    return name.lstrip("._+-") or "compare"


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in data.items():
        path = f"{prefix}{key}"
        found |= _flat(value, f"{path}.") if isinstance(value, Mapping) and path == "train" else {path: value}
    return found


def _word(norm: Any) -> str:
    """Return what a norm is called in the name: its label, or its name, or the file it stands in."""
    if isinstance(norm, Mapping):
        norm = norm.get("label") or norm.get("name") or norm.get("path") or "norm"
    return _slug(str(norm))


def _slug(text: str) -> str:
    attribute = text.rpartition(":")[2]  # of a file or package of a user's own
    return re.sub(r"[^a-z0-9.+]+", "_", attribute.lower()).strip("._")


def _has_options(data: Mapping[str, Any]) -> bool:
    norms = data.get("norms")
    return isinstance(norms, list | tuple) and any(isinstance(norm, Mapping) for norm in norms)


def _hash(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()[:6]
