"""The tables of a benchmark: one description for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from normbench.bench.results import (
    InferResults,
    InferRow,
    LayerResults,
    LayerRow,
    TrainResults,
    TrainRow,
    failures,
    median,
)
from normbench.report.columns import NOTHING, Align
from normbench.report.formats import escape_markdown, markdown_grid
from normbench.report.stats import median_and_mad

Row = TypeVar("Row", TrainRow, LayerRow, InferRow)


@dataclass(frozen=True)
class BenchColumn:
    """A heading and the cells below it; a key column names the row, so that every part of a split table repeats it."""

    header: str
    cells: tuple[str, ...]
    is_key: bool = False
    group: str = ""
    """Neighbors of the same group stay together where a table is split."""

    @property
    def align(self) -> Align:
        """Names begin at the left, numbers end at the right."""
        return "left" if self.is_key else "right"


@dataclass(frozen=True)
class BenchTable:
    """A titled table with the notes that a reader needs."""

    title: str
    columns: tuple[BenchColumn, ...]
    notes: tuple[str, ...] = ()

    def with_notes(self, *notes: str) -> BenchTable:
        """Return the table with `notes` after those it has."""
        return replace(self, notes=(*self.notes, *notes))


TRAIN_NOTES = (
    "ms/step: median over the rounds, ± median absolute deviation. All cases of a table were timed in turn in one "
    "process.",
    "x bn, x none: time of a step relative to that norm in the same variant; speedup: over the tutorial's loop with "
    "the same norm. Medians over the rounds of the quotient within a round.",
)
AT_ONCE_NOTE = (
    "N at once: trainings of N seeds, a stream each; ms/step is their time over all their steps, peak MiB theirs "
    "together."
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
    tables = []
    for batch_size in dict.fromkeys(row.batch_size for row in results.rows):
        rows = [row for row in results.rows if row.batch_size == batch_size]
        title = f"Batch {batch_size}, {rows[0].steps_per_epoch} steps per epoch"
        tables.append(BenchTable(title, _train_columns(rows), tuple(failures(rows))))
    if tables:
        paths = ((row.norm, row.norm_path or "") for row in results.rows)
        at_once = [AT_ONCE_NOTE] if any(row.runs_at_once > 1 for row in results.rows) else []
        tables[-1] = tables[-1].with_notes(_variants(results), *TRAIN_NOTES, *at_once, *_native(paths))
    profiled = [row for row in results.rows if row.breakdown is not None]
    if profiled:
        tables.append(BenchTable("Where a step's time goes (%)", _breakdown_columns(profiled), BREAKDOWN_NOTES))
    return tables


def _train_columns(rows: Sequence[TrainRow]) -> tuple[BenchColumn, ...]:
    return _with_content(
        _key(rows, "norm", lambda row: row.norm),
        _key(rows, "variant", lambda row: row.variant_at_once),
        _column(rows, "norms ran", lambda row: _path(row) if any(map(_is_fused, rows)) else NOTHING),
        _column(rows, "ms/step", lambda row: _number(row.ms_per_step)),
        _column(rows, "±", lambda row: _number(row.ms_mad, like=row.ms_per_step)),
        _column(rows, "images/s", lambda row: _count(row.images_per_second)),
        _column(rows, "x bn", lambda row: _write(row.ratio_to_bn, "{:.2f}")),
        _column(rows, "x none", lambda row: _write(row.ratio_to_none, "{:.2f}")),
        _column(rows, "speedup", lambda row: _write(row.speedup_over_tutorial, "{:.2f}")),
        _column(rows, "epoch s", lambda row: _number(median(row.epoch_seconds))),
        _column(rows, "peak MiB", lambda row: _count(row.peak_memory_mib)),
        _column(rows, "start s", lambda row: _write(row.startup_seconds, "{:.1f}")),
    )


def _is_fused(row: TrainRow) -> bool:
    return (row.norm_path or "").startswith("fused")


def _path(row: TrainRow) -> str:
    """Say in a word whether kernels computed the norms: those without lose time, which is not the method's fault."""
    path = row.norm_path
    return NOTHING if path is None else "fused" if path == "fused" else "partly" if _is_fused(row) else "native"


def _variants(results: TrainResults) -> str:
    """Return a note on the engine and the precision that each variant came to."""
    found = {row.variant: f"{row.variant}: {row.engine}, {row.precision}" for row in results.rows}
    return "; ".join(found.values()) + "."


def _breakdown_columns(rows: Sequence[TrainRow]) -> tuple[BenchColumn, ...]:
    def share(part: str) -> BenchColumn:
        return _column(rows, part.partition("_")[0], lambda row: f"{100 * getattr(row.breakdown, part):.1f}")

    return (
        _key(rows, "norm", lambda row: row.norm),
        _key(rows, "variant", lambda row: row.variant),
        _column(rows, "batch", lambda row: str(row.batch_size)),
        *map(share, ("convolution", "norm_and_activation", "optimizer", "other")),
    )


def layer_tables(results: LayerResults) -> list[BenchTable]:
    """Return a table for each shape."""
    tables = []
    for shape in dict.fromkeys(row.shape for row in results.rows):
        rows = [row for row in results.rows if row.shape == shape]
        copy = next((row.copy_gb_per_s for row in rows if row.copy_gb_per_s), None)
        size = f"{'x'.join(map(str, shape))} {rows[0].dtype}, {_mib(rows[0].input_bytes)} MiB"
        tables.append(BenchTable(f"{size}; copy {_count(copy)} GB/s", _layer_columns(rows), tuple(failures(rows))))
    if tables:
        tables[-1] = tables[-1].with_notes(*LAYER_NOTES, *_native((row.norm, row.path) for row in results.rows))
    return tables


def _layer_columns(rows: Sequence[LayerRow]) -> tuple[BenchColumn, ...]:
    ahead, back = "forward", "backward"
    return _with_content(
        _key(rows, "norm", lambda row: row.norm),
        _key(rows, "path", lambda row: row.path.partition(":")[0]),
        _column(rows, "forward µs", lambda row: _micros(row.forward_seconds), ahead),
        _column(rows, "±", lambda row: _micros(row.forward_seconds, spread=True), ahead),
        _column(rows, "GB/s", lambda row: _count(row.forward_gb_per_s), ahead),
        _column(rows, "of copy", lambda row: _write(row.forward_copy_fraction, "{:.0%}"), ahead),
        _column(rows, "backward µs", lambda row: _micros(row.backward_seconds), back),
        _column(rows, "±", lambda row: _micros(row.backward_seconds, spread=True), back),
        _column(rows, "GB/s", lambda row: _count(row.backward_gb_per_s), back),
        _column(rows, "of copy", lambda row: _write(row.backward_copy_fraction, "{:.0%}"), back),
        _column(rows, "kept MiB", lambda row: _mib(row.kept_bytes), back),
    )


INFER_NOTES = (
    "ms: median over the rounds per batch, ± median absolute deviation; batches are on the device already. At batch 1 "
    "each waits for the one before (latency), larger ones follow each other (throughput). All ways of a table were "
    "timed in turn in one process.",
    "x bn: time relative to bn, not folded, in the same way. folded: the norm's scale and shift are in the weights of "
    "the convolution before it, where the norm is affine per channel in evaluation.",
)


def infer_tables(results: InferResults) -> list[BenchTable]:
    """Return a table for each precision and batch size, and one of ONNX where that was measured."""
    tables = []
    timed = [row for row in results.rows if row.variant != "onnx"]
    for precision, batch_size in dict.fromkeys((row.precision, row.batch_size) for row in timed):
        rows = [row for row in timed if (row.precision, row.batch_size) == (precision, batch_size)]
        what = "latency" if batch_size == 1 else "throughput"
        tables.append(
            BenchTable(f"Batch {batch_size}, {precision}: {what}", _infer_columns(rows), tuple(failures(rows)))
        )
    exported = [row for row in results.rows if row.variant == "onnx"]
    if exported:
        title = "ONNX, batch 1, fp32: nodes of the graph, latency under onnxruntime on the CPU"
        tables.append(BenchTable(title, _infer_columns(exported), tuple(failures(exported))))
    if tables:
        tables[-1] = tables[-1].with_notes(*INFER_NOTES)
    return tables


def _infer_columns(rows: Sequence[InferRow]) -> tuple[BenchColumn, ...]:
    return _with_content(
        _key(rows, "norm", lambda row: row.norm),
        _key(rows, "way", lambda row: f"{row.variant}{', folded' if row.folded else ''}"),
        _column(rows, "nodes", lambda row: _count(row.onnx_nodes)),
        _column(rows, "ms", lambda row: _number(row.ms_per_batch)),
        _column(rows, "±", lambda row: _millis_spread(row.seconds_per_batch)),
        _column(rows, "images/s", lambda row: _count(row.images_per_second)),
        _column(rows, "x bn", lambda row: _write(row.ratio_to_bn, "{:.2f}")),
        _column(rows, "peak MiB", lambda row: _write(row.peak_memory_mib, "{:.1f}")),
        _column(rows, "parameters", lambda row: _count(row.num_parameters)),
    )


def _millis_spread(seconds: Sequence[float]) -> str:
    found = median_and_mad([1e3 * value for value in seconds])
    return NOTHING if found is None else _number(found.mad, like=found.median)


def _native(paths: Iterable[tuple[str, str]]) -> list[str]:
    """Return a note for each reason why layers ran natively, with their norms, given each norm and its path."""
    norms_by_path: dict[str, dict[str, None]] = {}
    for norm, path in paths:
        if "native" in path:
            norms_by_path.setdefault(path, {})[norm] = None
    return [f"{path} ({', '.join(norms)})" for path, norms in norms_by_path.items()]


def to_markdown(title: str, facts: Sequence[str], tables: Sequence[BenchTable], picture: str | None) -> str:
    """Return a page: what was measured on what, the picture, the tables."""
    lines = [f"# {escape_markdown(title)}", "", *(f"- {escape_markdown(fact)}" for fact in facts), ""]
    lines += [f"![{escape_markdown(title)}]({picture})", ""] if picture else []
    for table in tables:
        columns = [[escape_markdown(text) for text in (column.header, *column.cells)] for column in table.columns]
        grid = markdown_grid(list(zip(*columns, strict=True)), [column.align for column in table.columns])
        lines += [f"## {escape_markdown(table.title)}", "", grid, ""]
        lines += [*(f"- {escape_markdown(note)}" for note in table.notes), ""] if table.notes else []
    return "\n".join(lines)


def _key(rows: Sequence[Row], header: str, cell: Callable[[Row], str]) -> BenchColumn:
    return BenchColumn(header, tuple(map(cell, rows)), is_key=True)


def _column(rows: Sequence[Row], header: str, cell: Callable[[Row], str], group: str = "") -> BenchColumn:
    return BenchColumn(header, tuple(map(cell, rows)), group=group or header)


def _with_content(*columns: BenchColumn) -> tuple[BenchColumn, ...]:
    """Return the columns that have something to say of some row."""
    return tuple(column for column in columns if column.is_key or set(column.cells) != {NOTHING})


def _number(value: float | None, like: float | None = None) -> str:
    """Write about three significant digits; a spread gets the decimals of its value `like`."""
    if value is None:
        return NOTHING
    size = abs(value if like is None else like)
    decimals = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3
    return f"{value:.{decimals}f}"


def _count(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _write(value: float | None, template: str) -> str:
    return NOTHING if value is None else template.format(value)


def _mib(num_bytes: int | None) -> str:
    return NOTHING if num_bytes is None else f"{num_bytes / 2**20:.1f}"


def _micros(seconds: Sequence[float], *, spread: bool = False) -> str:
    found = median_and_mad([1e6 * value for value in seconds])
    return NOTHING if found is None else _number(found.mad if spread else found.median, like=found.median)
