"""Comparison tables as text: terminal, Markdown, LaTeX (booktabs), CSV, TSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from normbench.report.batch_one import BatchOne
from normbench.report.columns import NOTHING, Align, Column, columns, narrow_columns, norm_columns
from normbench.report.comparison_table import Result, Row, Table
from normbench.report.stats import Estimate
from normbench.tasks import Measure

if TYPE_CHECKING:
    import rich.table

SCHEMA_VERSION = 1
ID_DIGITS = 16
"""How much of a result's id stands where 64 digits would break the line."""
_JSON_NAMES = {"test_accuracy": "accuracy"}
"""Measures that `to_json` calls otherwise than their name, as the schema's version 1 began with."""

AnyColumn = TypeVar("AnyColumn")


def render_terminal(table: Table, width: int | None = None) -> list[rich.table.Table]:
    """Return the table for a rich console: in several parts, each with the norms, where `width` does not hold one.

    A console narrower than a part, or than `terminal_width` if `width` is None, wraps cells and cuts none.
    """
    from rich.text import Text

    every = columns(table)
    num_fixed = len(norm_columns(table))
    parts = split_columns(
        every[:num_fixed],
        ([column] for column in every[num_fixed:]),
        lambda part: width is None or _width(_render(table, part)) <= width,
    )
    shown = [_render(table, part) for part in parts]
    shown[0].title = Text(table.title, style="bold")
    return shown


def table_words(table: Table, *, explain: bool = False) -> str:
    """Return what stands below a table: what its numbers are, in two lines or in full, failures and notes."""
    words = f"{table.caption} {table.cost_caption}" if explain else table.short_caption
    return "\n".join([words, *table.failures, *table.notes])


def split_columns(
    fixed: Sequence[AnyColumn], others: Iterable[Sequence[AnyColumn]], fits: Callable[[Sequence[AnyColumn]], bool]
) -> list[list[AnyColumn]]:
    """Return a table's columns in as few parts as fit: each has the `fixed` ones first, then groups of `others`."""
    parts: list[list[AnyColumn]] = []
    for group in others:
        if parts and fits([*parts[-1], *group]):
            parts[-1] += group
        else:
            parts.append([*fixed, *group])
    return parts or [list(fixed)]


def _render(table: Table, shown: Sequence[Column]) -> rich.table.Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    found = RichTable(box=SIMPLE_HEAD, pad_edge=False, title_justify="left", caption_justify="left")
    for column in shown:
        texts = [column.cell(row) for row in table.rows]
        found.add_column(Text("\n".join(_fold(column.header, texts))), justify=column.align, overflow="fold")
    for row in table.rows:
        cells = [Text(column.cell(row), style="bold" if column.is_bold(row) else "") for column in shown]
        found.add_row(*cells)
    return found


def _width(shown: rich.table.Table) -> int:
    from rich.console import Console

    return Console(width=100_000).measure(shown).maximum


def terminal_width(table: Table) -> int:
    """Return the columns a console needs so that no cell of `table` wraps."""
    return max(_width(part) for part in render_terminal(table))


def _fold(header: str, texts: Sequence[str]) -> list[str]:
    """Break a header into lines as narrow as its column's texts, words kept whole."""
    return textwrap.wrap(header, max(map(len, [*texts, *header.split()])))


def to_text(tables: Sequence[Table]) -> str:
    """Return the tables as plain text that lines up, for a pipe or a log."""
    from rich.console import Console

    buffer = io.StringIO()
    for table in tables:
        width = terminal_width(table)
        console = Console(file=buffer, width=width, color_system=None, force_terminal=False)
        console.print(*render_terminal(table), table_words(table), sep="\n", markup=False, highlight=False)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def to_markdown(tables: Sequence[Table]) -> str:
    """Return the tables as GitHub Markdown, padded so that the source lines up too."""
    return "\n".join(f"## {escape_markdown(table.title)}\n\n{_markdown_table(table)}" for table in tables)


def _markdown_table(table: Table) -> str:
    """Return one table with its caption and notes, without a heading."""
    notes = "".join(f"- {escape_markdown(note)}\n" for note in (*table.failures, *table.notes))
    grid = markdown_columns(table.rows, columns(table))
    return f"{grid}\n\n{escape_markdown(f'{table.caption} {table.cost_caption}')}\n" + (f"\n{notes}" if notes else "")


def markdown_columns(rows: Sequence[Row], shown: Sequence[Column]) -> str:
    """Return these columns of the rows as a Markdown table, a resolved best marked in bold."""
    lines = [[escape_markdown(column.header) for column in shown]]
    for row in rows:
        texts = [(column, escape_markdown(column.cell(row))) for column in shown]
        lines.append([f"**{text}**" if column.is_bold(row) else text for column, text in texts])
    return markdown_grid(lines, [column.align for column in shown])


def markdown_grid(lines: Sequence[Sequence[str]], aligns: Sequence[Align]) -> str:
    """Return escaped cells, the first line being the header, as a Markdown table whose source lines up."""
    widths = [max(3, *(len(line[index]) for line in lines)) for index in range(len(aligns))]
    rule = [
        f"{'-' * (width - 1)}{':' if align == 'right' else '-'}" for width, align in zip(widths, aligns, strict=True)
    ]
    padded = [
        [text.rjust(width) if align == "right" else text.ljust(width) for text, width, align in zip(*row, strict=True)]
        for row in ((line, widths, aligns) for line in lines)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])


def to_latex(tables: Sequence[Table]) -> str:
    r"""Return the tables for LaTeX, as wide as a page of two columns; they need ``\usepackage{booktabs}``."""
    return "\n".join(
        _latex_table(table, number, columns(table), "table*", [table.caption, table.cost_caption])
        for number, table in enumerate(tables, 1)
    )


def to_narrow_latex(tables: Sequence[Table]) -> str:
    r"""Return results and times alone for LaTeX, within one column of ``article``; needs ``\usepackage{booktabs}``."""
    return "\n".join(
        _latex_table(table, number, narrow_columns(table), "table", []) for number, table in enumerate(tables, 1)
    )


def _latex_table(
    table: Table, number: int, shown: Sequence[Column], environment: str, explanations: Sequence[str]
) -> str:
    body = []
    for row in table.rows:
        texts = [(column, _latex(column.cell(row))) for column in shown]
        cells = [rf"\textbf{{{text}}}" if column.is_bold(row) else text for column, text in texts]
        body.append(" & ".join(cells) + r" \\")
    words = " ".join([*explanations, *_id_sentence(table)])
    notes = [_latex(text) for text in (words, *(f"{note}." for note in (*table.failures, *table.notes))) if text]
    caption = table.short_caption.partition("\n")[0]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            rf"\begin{{{environment}}}",
            r"  \centering\footnotesize\setlength{\tabcolsep}{4pt}",
            rf"  \caption{{{_latex(caption)}}}",
            rf"  \label{{tab:normbench{'' if number == 1 else f'-{number}'}}}",
            r"  \vspace{4pt}",
            rf"  \begin{{tabular}}{{{''.join(column.align[0] for column in shown)}}}",
            r"    \toprule",
            "    " + " & ".join(_latex_header(column, table) for column in shown) + r" \\",
            r"    \midrule",
            *(f"    {line}" for line in body),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"  \par\smallskip\raggedright\scriptsize",
            *(f"  {note}" for note in notes),
            rf"\end{{{environment}}}",
            "",
        ]
    )


def _id_sentence(table: Table) -> list[str]:
    """Return the sentence that names the result, by as much of its id as a line of print holds."""
    return [f"Result {table.result_id[:ID_DIGITS]}."] if table.result_id else []


def _latex_header(column: Column, table: Table) -> str:
    """Stack the words of a header so that the column is no wider than its cells."""
    lines = [_latex(line) for line in _fold(column.header, [column.cell(row) for row in table.rows])]
    if len(lines) == 1:
        return lines[0]
    stacked = r" \\ ".join(lines)
    return rf"\shortstack[{column.align[0]}]{{{stacked}}}"


def to_records(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Return flat rows of raw numbers, the same keys in each: for CSV files and data frames."""
    paths = list(dict.fromkeys(path for table in tables for path in table.varied))
    records = [_record(table, row, paths) for table in tables for row in table.rows]
    keys = dict.fromkeys(key for record in records for key in record)
    return [{key: record.get(key) for key in keys} for record in records]


def _record(table: Table, row: Row, paths: Sequence[str]) -> dict[str, Any]:
    time = row.epoch_seconds
    estimates: dict[str, Any] = {}
    comparisons: dict[str, Any] = {}
    for measure, prefix in _prefixed(table):
        result = row.results[measure.name]
        estimates |= _estimate(measure.name, result.estimate)
        comparisons |= {f"{prefix}{key}": value for key, value in _compared(result).items()}
    return {
        "norm": row.norm,
        "label": row.label,
        **{path: row.fields.get(path) for path in paths},
        **estimates,
        "num_completed": row.num_completed,
        "num_planned": row.num_planned,
        "runs": row.runs,
        "baseline": table.baseline,
        **comparisons,
        "epoch_seconds_median": time.median if time else None,
        "epoch_seconds_mad": time.mad if time else None,
        "epoch_seconds_source": row.time_source,
        "relative_time": row.relative_time,
        "relative_time_mad": row.relative_time_mad,
        **{f"seconds_to_{target}": seconds for target, seconds in row.seconds_to_reach.items()},
        **_batch_one(row.batch_one),
        "num_parameters": row.num_parameters,
        "peak_memory_mib": row.peak_memory_mib,
        **{key: table.environment.get(key) for key in ("device", "device_name", "torch", "cuda", "precision")},
    }


def _prefixed(table: Table) -> list[tuple[Measure, str]]:
    """Return each measure with what stands before the keys of its comparison: nothing for the first, else its name."""
    return [(measure, f"{measure.name}_" if position else "") for position, measure in enumerate(table.measures)]


def _estimate(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    return {
        name: estimate.mean if estimate else None,
        f"{name}_low": estimate.low if estimate else None,
        f"{name}_high": estimate.high if estimate else None,
        f"{name}_std": estimate.std if estimate else None,
    }


def _compared(result: Result) -> dict[str, Any]:
    comparison, rank = result.comparison, result.rank
    difference = comparison.difference.estimate if comparison else None
    return {
        "difference": difference.mean if difference else None,
        "difference_low": difference.low if difference else None,
        "difference_high": difference.high if difference else None,
        "num_pairs": difference.n if difference else None,
        "t_p": comparison.difference.t_p if comparison else None,
        "holm_p": comparison.holm_p if comparison else None,
        "equivalence_p": comparison.equivalence_p if comparison else None,
        "correlation": comparison.difference.correlation if comparison else None,
        "sign_flip_p": comparison.difference.sign_flip_p if comparison else None,
        "cohens_dz": comparison.difference.cohens_dz if comparison else None,
        "verdict": comparison.verdict if comparison else None,
        "seeds_to_resolve": comparison.seeds_to_resolve if comparison else None,
        "best_rank": rank[0] if rank else None,
        "worst_rank": rank[1] if rank else None,
    }


def _batch_one(found: BatchOne | None) -> dict[str, Any]:
    accuracy = found.accuracy if found else None
    with_statistics = found.batch_statistics_accuracy if found else None
    return {
        "batch_one_accuracy": accuracy.mean if accuracy else None,
        "batch_one_accuracy_low": accuracy.low if accuracy else None,
        "batch_one_accuracy_high": accuracy.high if accuracy else None,
        "batch_one_batch_statistics_accuracy": with_statistics.mean if with_statistics else None,
        "batch_one_stability": found.stability if found else None,
        "batch_one_possible": " or ".join(found.possible) if found and found.possible else None,
    }


def to_csv(tables: Sequence[Table], delimiter: str = ",") -> str:
    """Return raw numbers, accuracies as fractions; a header line, then a line per row.

    The first measure's comparison stands under ``difference``, ``verdict``, ...; those of further measures have the
    measure's name in front.
    """
    records = to_records(tables)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, records[0] if records else (), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _no_formula(value) for key, value in record.items()} for record in records)
    return buffer.getvalue()


def _no_formula(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula: such text begins with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def to_tsv(tables: Sequence[Table]) -> str:
    """Return what `to_csv` returns, separated by tabs."""
    return to_csv(tables, "\t")


def to_json(tables: Sequence[Table]) -> str:
    """Return everything the tables hold as JSON."""
    return (
        json.dumps({"schema_version": SCHEMA_VERSION, "tables": [_plain(table) for table in tables]}, indent=2) + "\n"
    )


def _plain(table: Table) -> dict[str, Any]:
    """Return the table as plain values, with the keys of measures as in `to_csv`."""
    plain = asdict(replace(table, rows=(), identity=None))
    del plain["margins"], plain["identity"]
    plain |= {"result_id": table.result_id, "task": table.task.name, "margin": table.margins[table.measures[0].name]}
    plain["rows"] = [_plain_row(table, row) for row in table.rows]
    return plain


def _plain_row(table: Table, row: Row) -> dict[str, Any]:
    plain = asdict(row)
    results = plain.pop("results")
    for measure, prefix in _prefixed(table):
        result = results[measure.name]
        plain[_JSON_NAMES.get(measure.name, measure.name)] = result["estimate"]
        plain[f"{prefix}comparison"], plain[f"{prefix}rank"] = result["comparison"], result["rank"]
    return plain | {"is_resolved_best": row.is_resolved_best}


FORMATS: Mapping[str, Callable[[Sequence[Table]], str]] = MappingProxyType(
    {
        "text": to_text,
        "md": to_markdown,
        "latex": to_latex,
        "latex-narrow": to_narrow_latex,
        "csv": to_csv,
        "tsv": to_tsv,
        "json": to_json,
    }
)


_MARKDOWN_ESCAPES = str.maketrans({character: f"\\{character}" for character in "\\|*_<`["})
_LATEX_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
    }
)  # fmt: skip


def escape_markdown(text: str) -> str:
    """Return `text` such that Markdown shows it as it is."""
    return text.translate(_MARKDOWN_ESCAPES)


def _latex(text: str) -> str:
    if text == NOTHING:
        return "--"
    escaped = text.translate(_LATEX_ESCAPES)
    return f"${escaped[0]}${escaped[1:]}" if escaped[:1] in ("+", "-") and len(escaped) > 1 else escaped
