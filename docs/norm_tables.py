"""Write the tables of docs/norms.md from the catalog: ``python docs/norm_tables.py docs/norms.md``.

Each table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from normbench.norms import NORMS, WEIGHTS
from normbench.registry import OptionValue

_BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill_tables(page: str) -> str:
    """Return the page with every table between markers written anew."""
    tables = {"norms": norms_table, "options": options_table, "weights": weights_table}
    return _BLOCK.sub(lambda match: f"{match[1]}{tables[match[2]]()}{match[3]}", page)


def norms_table() -> str:
    """Return one row per norm: what it is, what it averages over, what it learns and keeps."""
    header = (
        "key",
        "label",
        "name",
        "year",
        "statistics over",
        "learned per channel",
        "running state",
        "train ≠ eval",
        "depends on the batch",
        "replaces the activation",
    )
    return _table(
        header,
        (
            (
                f"[`{key}`](#{key})",
                norm.label,
                norm.full_name,
                str(norm.year or "-"),
                *norm.traits,
            )
            for key, norm in NORMS.items()
        ),
    )


def options_table() -> str:
    """Return one row an option of a norm."""
    return _table(
        ("norm", "option", "default", "allowed", "meaning"),
        (
            (f"`{key}`", f"`{name}`", f"`{_yaml(option.default)}`", option.allowed, option.help)
            for key, norm in NORMS.items()
            for name, option in norm.options.items()
        ),
    )


def weights_table() -> str:
    """Return one row per method for convolution weights."""
    return _table(
        ("key", "label", "name", "year", "learned per output channel", "source"),
        (
            (
                f"`+{key}`",
                weight.label,
                weight.full_name,
                str(weight.year),
                weight.learnable_per_channel,
                f"{weight.paper}, arXiv {weight.arxiv}",
            )
            for key, weight in WEIGHTS.items()
        ),
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _yaml(value: OptionValue) -> str:
    """Write a default as YAML has it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(fill_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
