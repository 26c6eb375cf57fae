"""The tables of a benchmark: one description for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from normbench.bench.results import LayerResults, LayerRow, TrainResults, TrainRow, failures, mad, median
from normbench.report.columns import NOTHING, Align
from normbench.report.formats import escape_markdown, markdown_grid

Row = TypeVar("Row", TrainRow, LayerRow)


@dataclass(frozen=True)
class Column:
    """A heading and what stands below it."""

    header: str
    align: Align
    cells: tuple[str, ...]
    is_key: bool = False
    """Whether it names the row, so that every part of a split table needs it."""
    group: str = ""
    """Neighbors of the same group stay together where a table is split."""


@dataclass(frozen=True)
class BenchTable:
    """A titled table with what the reader must know."""

    title: str
    columns: tuple[Column, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Field(Generic[Row]):
    header: str
    cell: Callable[[Row], str]
    align: Align = "right"
    is_key: bool = False
    group: str = ""


TRAIN_NOTES = (
    "ms/step: median over the rounds, ± median absolute deviation. All cases of a table were timed in turn in one "
    "process.",
    "x bn, x none: time of a step relative to that norm in the same variant; speedup: over the tutorial's loop with "
    "the same norm. Medians over the rounds of the quotient within a round.",
)
BREAKDOWN_NOTES = (
    "By torch's profiler over eager steps. convolution: everything in the convolution layers, forward and backward; "
    "norm: likewise norms and ReLUs; optimizer: step and zero_grad; other: the rest (batch assembly, pooling, "
    "classifier, loss, Python).",
)
LAYER_NOTES = (
    "GB/s: the fewest bytes that must move (forward reads x and writes y; backward reads x and dy and writes dx) by "
    "the median time. of copy: relative to copying a tensor of the same size in the same rounds, bytes read plus bytes "
    "written.",
    "kept: what autograd keeps for backward, each storage once, the input included, parameters and buffers not.",
)


def train_tables(results: TrainResults) -> list[BenchTable]:
    """Return a table for each batch size, and one of where the time of a step goes if that was measured."""
    fields: list[_Field[TrainRow]] = [
        _Field("norm", lambda row: row.norm, "left", is_key=True),
        _Field("variant", lambda row: row.variant, "left", is_key=True),
        _Field("ms/step", lambda row: _number(row.ms_per_step)),
        _Field("±", lambda row: _number(row.ms_mad, like=row.ms_per_step)),
        _Field("images/s", lambda row: _count(row.images_per_second)),
        _Field("x bn", lambda row: _ratio(row.ratio_to_bn)),
        _Field("x none", lambda row: _ratio(row.ratio_to_none)),
        _Field("speedup", lambda row: _ratio(row.speedup_over_tutorial)),
        _Field("epoch s", lambda row: _number(median(row.epoch_seconds))),
        _Field("peak MiB", lambda row: _count(row.peak_memory_mib)),
        _Field("start s", lambda row: NOTHING if row.startup_seconds is None else f"{row.startup_seconds:.1f}"),
    ]
    tables = []
    for batch_size in dict.fromkeys(row.batch_size for row in results.rows):
        rows = [row for row in results.rows if row.batch_size == batch_size]
        title = f"Batch {batch_size}, {rows[0].steps_per_epoch} steps an epoch"
        tables.append(BenchTable(title, _columns(rows, fields), tuple(failures(rows))))
    if tables:
        last = tables[-1]
        tables[-1] = BenchTable(last.title, last.columns, (*last.notes, _ways(results), *TRAIN_NOTES))
    profiled = [row for row in results.rows if row.breakdown is not None]
    if profiled:
        tables.append(BenchTable("Where a step's time goes (%)", _breakdown_columns(profiled), BREAKDOWN_NOTES))
    return tables


def _ways(results: TrainResults) -> str:
    """Say which engine and precision each variant came to."""
    ways = {row.variant: f"{row.variant}: {row.engine}, {row.precision}" for row in results.rows}
    return "; ".join(ways.values()) + "."


def _breakdown_columns(rows: Sequence[TrainRow]) -> tuple[Column, ...]:
    parts = ("convolution", "norm_and_activation", "optimizer", "other")
    fields: list[_Field[TrainRow]] = [
        _Field("norm", lambda row: row.norm, "left", is_key=True),
        _Field("variant", lambda row: row.variant, "left", is_key=True),
        _Field("batch", lambda row: str(row.batch_size)),
    ]
    shown = list(_columns(rows, fields))
    for part in parts:
        cells = tuple(f"{100 * getattr(row.breakdown, part):.1f}" for row in rows)
        shown.append(Column(part.partition("_")[0], "right", cells, group=part))
    return tuple(shown)


def layer_tables(results: LayerResults) -> list[BenchTable]:
    """Return a table for each shape."""
    fields: list[_Field[LayerRow]] = [
        _Field("norm", lambda row: row.norm, "left", is_key=True),
        _Field("path", lambda row: row.path.partition(":")[0], "left", is_key=True),
        _Field("forward µs", lambda row: _micros(row.forward_seconds), group="forward"),
        _Field("±", lambda row: _micros(row.forward_seconds, spread=True), group="forward"),
        _Field("GB/s", lambda row: _count(row.forward_gb_per_s), group="forward"),
        _Field("of copy", lambda row: _percent(row.forward_copy_fraction), group="forward"),
        _Field("backward µs", lambda row: _micros(row.backward_seconds), group="backward"),
        _Field("±", lambda row: _micros(row.backward_seconds, spread=True), group="backward"),
        _Field("GB/s", lambda row: _count(row.backward_gb_per_s), group="backward"),
        _Field("of copy", lambda row: _percent(row.backward_copy_fraction), group="backward"),
        _Field("kept MiB", lambda row: _mib(row.kept_bytes), group="backward"),
    ]
    tables = []
    for shape in dict.fromkeys(row.shape for row in results.rows):
        rows = [row for row in results.rows if row.shape == shape]
        copy = next((row.copy_gb_per_s for row in rows if row.copy_gb_per_s), None)
        title = (
            f"{'x'.join(map(str, shape))} {rows[0].dtype}, {_mib(rows[0].input_bytes)} MiB; copy {_count(copy)} GB/s"
        )
        tables.append(BenchTable(title, _columns(rows, fields), tuple(failures(rows))))
    if tables:
        last = tables[-1]
        tables[-1] = BenchTable(last.title, last.columns, (*last.notes, *LAYER_NOTES, *_paths(results)))
    return tables


def _paths(results: LayerResults) -> list[str]:
    """Say why layers ran natively, and which."""
    norms_by_path: dict[str, dict[str, None]] = {}
    for row in results.rows:
        if row.path.startswith("native"):
            norms_by_path.setdefault(row.path, {})[row.norm] = None
    return [f"{path} ({', '.join(norms)})" for path, norms in norms_by_path.items()]


def to_markdown(title: str, facts: Sequence[str], tables: Sequence[BenchTable], picture: str | None) -> str:
    """Return a page: what was measured on what, the picture, the tables."""
    lines = [f"# {escape_markdown(title)}", "", *(f"- {escape_markdown(fact)}" for fact in facts), ""]
    lines += [f"![{escape_markdown(title)}]({picture})", ""] if picture else []
    for table in tables:
        grid = [[escape_markdown(column.header) for column in table.columns]]
        grid += [
            [escape_markdown(cell) for cell in cells]
            for cells in zip(*(column.cells for column in table.columns), strict=True)
        ]
        lines += [f"## {escape_markdown(table.title)}", ""]
        lines += [markdown_grid(grid, [column.align for column in table.columns]), ""]
        lines += [*(f"- {escape_markdown(note)}" for note in table.notes), ""] if table.notes else []
    return "\n".join(lines)


def _columns(rows: Sequence[Row], fields: Sequence[_Field[Row]]) -> tuple[Column, ...]:
    """Return a column for each field that some row has something for."""
    found = []
    for field in fields:
        cells = tuple(field.cell(row) for row in rows)
        if field.is_key or any(cell != NOTHING for cell in cells):
            found.append(Column(field.header, field.align, cells, field.is_key, field.group or field.header))
    return tuple(found)


def _number(value: float | None, like: float | None = None) -> str:
    """Write about three significant digits; a spread gets the decimals of its value `like`."""
    if value is None:
        return NOTHING
    size = abs(value if like is None else like)
    decimals = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3
    return f"{value:.{decimals}f}"


def _count(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _ratio(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0%}"


def _mib(num_bytes: int | None) -> str:
    return NOTHING if num_bytes is None else f"{num_bytes / 2**20:.1f}"


def _micros(samples: Sequence[float], *, spread: bool = False) -> str:
    middle = median(samples)
    value = mad(samples) if spread else middle
    if value is None or middle is None:
        return NOTHING
    return _number(value * 1e6, like=middle * 1e6)
