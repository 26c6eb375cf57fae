"""``normbench list``: the norms, networks, data sets and configs to choose from. Needs no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Annotated, Any, TypeVar

import typer

from normbench.cli.completion import norm_names
from normbench.cli.options import JsonOption, ModelOption
from normbench.norms.entry import Norm, Weight

T = TypeVar("T")

_LEGEND = """
batch: whether, in training, a sample's output depends on the other samples.
folds: whether, once trained, the convolution before it can take it over.
Names with a plus change convolution weights beside any norm, as in gn+ws.
More: `normbench list norms gn`, --long."""

app = typer.Typer(help="List norms, models, datasets or configs.", no_args_is_help=True)

_SHORT_HEADER = ("key", "name", "statistics over", "batch-dependent", "folds into convolution", "year")
_LONG_HEADER = (
    *_SHORT_HEADER, "paper (arXiv)", "learned per channel", "running state", "train/eval differ", "replaces ReLU",
    "GPU kernel", "options",
)  # fmt: skip


@app.command()
def norms(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="A key, or a pattern such as '*evo*'.",
            show_default=False,
            autocompletion=norm_names,
        ),
    ] = None,
    model: ModelOption = None,
    long: Annotated[
        bool, typer.Option("--long", help="All that is known of each: paper, parameters, options.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """List the norms that a network takes: a line each on a terminal, tab-separated columns in a pipe.

    Examples: normbench list norms gn; normbench list norms '*evo*'; normbench list norms --model vit
    """
    from normbench.models import MODELS
    from normbench.norms.own import offered_norms
    from normbench.registry import find

    family = find("model", model or "norm_resnet", MODELS).family
    offered = {name: entry.value for name, entry in offered_norms().items()}
    entries: dict[str, Norm | Weight] = {
        **family.norms,
        **{f"+{key}": weight for key, weight in family.weights.items()},
    }
    found = _matching(patterns or [], entries)
    if json_output:
        _print_json(
            {
                "norms": _plain({key: entry for key, entry in found.items() if key in family.norms}),
                "weights": _plain({key: entry for key, entry in found.items() if key not in family.norms}),
                "offered": {} if patterns else offered,
            }
        )
        return
    rows = [_norm_cells(key, entry) for key, entry in found.items()]
    if long or (patterns and len(rows) == 1):
        _print(_LONG_HEADER, rows)
    else:
        _print_lines(_SHORT_HEADER, [row[: len(_SHORT_HEADER)] for row in rows])
    if offered and not patterns:
        print("\nOffered by installed packages:", ", ".join(f"{name} ({value})" for name, value in offered.items()))


def _matching(patterns: Sequence[str], entries: Mapping[str, T]) -> dict[str, T]:
    """Return the entries whose key one of `patterns` is or matches; all without patterns.

    Raises:
        UnknownNameError: a pattern matches nothing.
    """
    from fnmatch import fnmatchcase

    from normbench.errors import UnknownNameError

    wanted: set[str] = set()
    for pattern in patterns:
        base, plus, weight = pattern.lower().partition("+")
        parts = [part for part in (base, plus + weight) if part] if plus + weight in entries else [base + plus + weight]
        for part in parts:
            matches = {key for key in entries if fnmatchcase(key, part)}
            if not matches:
                raise UnknownNameError("norm", pattern, entries)
            wanted |= matches
    return {key: entry for key, entry in entries.items() if not patterns or key in wanted}


def _norm_cells(key: str, entry: Norm | Weight) -> tuple[str, ...]:
    """Return a norm's or a weight method's cells under `_LONG_HEADER`."""
    paper = f"{entry.paper} ({entry.arxiv})" if entry.arxiv else entry.paper
    if isinstance(entry, Norm):
        axes, learned, state, differ, batch, activation = entry.traits
        kernel = "-" if entry.kind == "none" else "yes" if entry.has_kernel else "no"
        folds = "-" if entry.kind == "none" else "yes" if entry.folds_into_conv else "no"
        options = _options({name: option.default for name, option in entry.options.items()})
    else:
        axes, learned, batch, folds = "each filter's weights", entry.learnable_per_channel, "no", "-"
        state = differ = activation = kernel = options = "-"
    year = str(entry.year or "-")
    return key, entry.full_name, axes, batch, folds, year, paper, learned, state, differ, activation, kernel, options


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
    """Print a table, a paragraph per row where a terminal is too narrow for it, or tab-separated columns in a pipe."""
    from rich.console import Console
    from rich.table import Table

    from normbench.cli.console import available_width, natural_width, print_table, table

    width = available_width()
    if width is None:
        _print_tab_separated(header, rows)
        return
    shown = table(*header)
    for row in rows:
        shown.add_row(*row)
    if len(header) <= 3 or width >= natural_width(shown):
        print_table(shown)
        return
    paragraphs = Table.grid(padding=(0, 2))
    for number, row in enumerate(rows):
        end = "" if number == len(rows) - 1 else "\n"
        paragraphs.add_row(f"[bold]{row[0]}[/bold]", f"[bold]{row[1]}[/bold]")
        facts = [f"{name}: {cell}" for name, cell in zip(header[2:], row[2:], strict=True) if cell != "-"]
        paragraphs.add_row("", "; ".join(facts) + end)
    Console(width=width).print(paragraphs)


def _print_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a line per norm, its name shortened to fit; or tab-separated columns in a pipe."""
    from normbench.cli.console import available_width

    width = available_width()
    if width is None:
        _print_tab_separated(header, rows)
        return
    lines: list[Sequence[str]] = [("key", "name", "statistics over", "batch", "folds", "year")]
    lines += [(key, name, axes.replace(", ", ","), *rest) for key, name, axes, *rest in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[1] = max(12, min(widths[1], width - sum(widths) + widths[1] - 2 * (len(widths) - 1)))
    for line in lines:
        cells = [_shortened(cell, width).ljust(width) for cell, width in zip(line, widths, strict=True)]
        print("  ".join(cells).rstrip())
    print(_LEGEND)


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip(" ,:") + "…"


def _print_tab_separated(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (header, *rows):
        print("\t".join(row))


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
