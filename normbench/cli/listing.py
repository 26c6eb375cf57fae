"""``normbench list``: the norms, networks, data sets and configs to choose from. Needs no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import typer

from normbench.cli.options import JsonOption

app = typer.Typer(help="List norms, models, datasets or configs.", no_args_is_help=True)

_NORM_HEADER = (
    "key", "name", "year", "paper (arXiv)", "statistics over", "learned per channel", "running state",
    "train/eval differ", "depends on batch", "replaces ReLU", "options",
)  # fmt: skip


@app.command()
def norms(json_output: JsonOption = False) -> None:
    """List the norms, with what sets them apart."""
    from normbench.norms import NORMS, WEIGHTS

    if json_output:
        _print_json({"norms": _plain(NORMS), "weights": {f"+{key}": entry for key, entry in _plain(WEIGHTS).items()}})
        return
    rows = [
        (
            key,
            norm.full_name,
            str(norm.year or "-"),
            f"{norm.paper} ({norm.arxiv})" if norm.arxiv else norm.paper,
            *norm.traits,
            _options({name: option.default for name, option in norm.options.items()}),
        )
        for key, norm in NORMS.items()
    ]
    rows += [
        (
            f"+{key}",
            weight.full_name,
            str(weight.year),
            f"{weight.paper} ({weight.arxiv})",
            "each filter of the convolution",
            weight.learnable_per_channel,
            *("-",) * 5,
        )
        for key, weight in WEIGHTS.items()
    ]
    _print(_NORM_HEADER, rows)


@app.command()
def models(json_output: JsonOption = False) -> None:
    """List the networks."""
    from normbench.models import MODELS

    if json_output:
        _print_json({"models": _plain(MODELS)})
        return
    rows = [(key, model.description, _options(model.options)) for key, model in MODELS.items()]
    _print(("key", "description", "options"), rows)


@app.command()
def datasets(json_output: JsonOption = False) -> None:
    """List the data sets."""
    from normbench.data import DATASETS

    if json_output:
        _print_json({"datasets": _plain(DATASETS)})
        return
    rows = [(key, dataset.description, _options(dataset.options)) for key, dataset in DATASETS.items()]
    _print(("key", "description", "options"), rows)


@app.command()
def configs(json_output: JsonOption = False) -> None:
    """List the built-in configs."""
    from normbench.config.built_in import built_in_configs

    first_lines = {
        name: file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        for name, file in built_in_configs().items()
    }
    if json_output:
        _print_json({"configs": first_lines})
        return
    _print(("config", "what it does"), list(first_lines.items()))


def _print_json(content: Mapping[str, Any]) -> None:
    print(json.dumps({"schema_version": 1, **content}, indent=2))


def _print(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, or a paragraph a row where a terminal is too narrow for it."""
    from rich.console import Console
    from rich.table import Table

    from normbench.cli.console import natural_width, print_table, table

    shown = table(*header)
    for row in rows:
        shown.add_row(*row)
    console = Console()
    if len(header) <= 3 or not console.is_terminal or console.width >= natural_width(shown):
        print_table(shown)
        return
    paragraphs = Table.grid(padding=(0, 2))
    for row in rows:
        paragraphs.add_row(f"[bold]{row[0]}[/bold]", f"[bold]{row[1]}[/bold]")
        facts = [f"{name}: {cell}" for name, cell in zip(header[2:], row[2:], strict=True) if cell != "-"]
        paragraphs.add_row("", "; ".join(facts) + "\n")
    console.print(paragraphs)


def _plain(registry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: {name: _json_value(value) for name, value in vars(entry).items() if name not in ("build", "fixed", "load")}
        for key, entry in registry.items()
    }


def _json_value(value: Any) -> Any:
    """Return `value` as JSON has it: types by name, the fields of a norm's option without those that limit nothing."""
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, Mapping):
        return {key: _json_value(inner) for key, inner in value.items()}
    if is_dataclass(value):
        limits = {key: inner for key, inner in vars(value).items() if inner not in (math.inf, -math.inf, ())}
        return _json_value(limits)
    return value


def _options(defaults: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in defaults.items()) or "-"
