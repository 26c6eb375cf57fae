"""``normbench list``: what there is to choose from. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import typer

from normbench.cli.options import JsonOption

app = typer.Typer(help="List norms, models, datasets or configs.", no_args_is_help=True)


@app.command()
def norms(json_output: JsonOption = False) -> None:
    """List the norms, with what sets them apart."""
    from normbench.norms import NORMS, WEIGHTS

    if json_output:
        entries = {key: _plain(norm) for key, norm in NORMS.items()}
        weights = {f"+{key}": _plain(weight) for key, weight in WEIGHTS.items()}
        print(json.dumps({"schema_version": 1, "norms": entries, "weights": weights}, indent=2))
        return
    rows = [
        (
            key,
            norm.full_name,
            str(norm.year or "-"),
            f"{norm.paper} ({norm.arxiv})" if norm.arxiv else norm.paper,
            norm.axes,
            norm.learnable_per_channel,
            norm.running_state,
            _yes(norm.train_eval_differ),
            _yes(norm.batch_dependent),
            _yes(norm.replaces_activation),
            ", ".join(f"{name}={option.default}" for name, option in norm.options.items()) or "-",
        )
        for key, norm in NORMS.items()
    ]
    rows += [
        (f"+{key}", weight.full_name, str(weight.year), f"{weight.paper} ({weight.arxiv})", "weights of the convolution")
        + ("-",) * 6
        for key, weight in WEIGHTS.items()
    ]
    _print(
        (
            "key", "name", "year", "paper (arXiv)", "statistics over", "learned per channel", "running state",
            "train/eval differ", "depends on batch", "replaces ReLU", "options",
        ),
        rows,
    )  # fmt: skip


@app.command()
def models(json_output: JsonOption = False) -> None:
    """List the networks."""
    from normbench.models import MODELS

    _entries(MODELS, json_output)


@app.command()
def datasets(json_output: JsonOption = False) -> None:
    """List the data sets."""
    from normbench.data import DATASETS

    _entries(DATASETS, json_output)


@app.command()
def configs(json_output: JsonOption = False) -> None:
    """List the built-in configs."""
    from normbench.cli.running import config_folders

    found = {}
    for folder in config_folders():
        for file in sorted(folder.glob("*.yaml")):
            first = file.read_text(encoding="utf-8").splitlines()[0]
            found.setdefault(file.stem, first.lstrip("# "))
    if json_output:
        print(json.dumps({"schema_version": 1, "configs": found}, indent=2))
        return
    _print(("config", "what it does"), list(found.items()))


def _entries(registry: Mapping[str, Any], json_output: bool) -> None:
    if json_output:
        print(json.dumps({"schema_version": 1, "entries": {key: _plain(entry) for key, entry in registry.items()}}, indent=2))
        return
    rows = [
        (key, entry.description, ", ".join(f"{name}={value}" for name, value in entry.options.items()) or "-")
        for key, entry in registry.items()
    ]
    _print(("key", "description", "options"), rows)


def _print(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from normbench.cli.console import print_table

    table = Table(*header, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    print_table(table)


def _plain(entry: Any) -> dict[str, Any]:
    return {name: value for name, value in asdict(entry).items() if name != "build"}


def _yes(value: bool) -> str:
    return "yes" if value else "no"
