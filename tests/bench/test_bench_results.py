"""Ratios, tables, files: from rows with known samples."""

import json
import statistics
from datetime import UTC, datetime
from pathlib import Path

import pytest

from normbench.bench.at_once_plot import draw_at_once
from normbench.bench.dot_plot import draw_layers, draw_train
from normbench.bench.folder import make_folder, read_results, write_results
from normbench.bench.results import Breakdown, LayerResults, LayerRow, TrainResults, TrainRow, with_ratios
from normbench.bench.tables import layer_tables, train_tables
from normbench.errors import FolderError, RunError

ENVIRONMENT = {
    "device": "cpu", "device_name": "a CPU", "torch": "2.11.0", "num_threads": 2, "commit": None, "argv": ["normbench"],
}  # fmt: skip
STARTED = "2026-11-23T04:05:06+00:00"


def train_row(norm: str, variant: str, *milliseconds: float, **more) -> TrainRow:
    base = {
        "norm": norm, "variant": variant, "batch_size": 64, "engine": "eager", "precision": "fp32",
        "steps_per_epoch": 782, "startup_seconds": 1.0, "steps_per_block": 3,
        "seconds_per_step": tuple(ms / 1e3 for ms in milliseconds),
    }  # fmt: skip
    return TrainRow.model_validate(base | more)


def train_results(**more) -> TrainResults:
    rows = with_ratios(
        [
            train_row("bn", "tutorial", 20, 40, 30),
            train_row("bn", "auto", 10, 20, 12, epoch_seconds=(3.0, 5.0)),
            train_row("gn", "auto", 15, 20, 30, breakdown=Breakdown(
                convolution=0.5, norm_and_activation=0.2, optimizer=0.1, other=0.2)),
            train_row("none", "auto", 5, 5, 6),
            train_row("frn", "auto", failure="RuntimeError: no"),
        ]
    )  # fmt: skip
    settings = {"model": "norm_resnet", "rounds": 3, "num_train": 50_000, "dataset_source": "drawn"}
    return TrainResults(started_at=STARTED, settings=settings, environment=ENVIRONMENT, rows=rows, **more)


def layer_results() -> LayerResults:
    shared = {
        "way": "native", "path": "native: no fused kernels on cpu", "shape": (64, 64, 32, 32), "dtype": "float32",
        "input_bytes": 2**24, "num_sets": 4, "copy_seconds": (0.001, 0.001),
    }  # fmt: skip
    rows = (
        LayerRow(
            norm="bn", kept_bytes=2**25, forward_seconds=(0.002, 0.002), backward_seconds=(0.003, 0.003), **shared
        ),
        LayerRow(norm="gn", failure="RuntimeError: no", **shared),
    )
    return LayerResults(started_at=STARTED, settings={"rounds": 2}, environment=ENVIRONMENT, rows=rows)


def test_ratios_are_medians_of_the_quotients_within_a_round() -> None:
    rows = {(row.norm, row.variant): row for row in train_results().rows}
    gn = rows["gn", "auto"]
    assert gn.ratio_to_bn == pytest.approx(statistics.median([15 / 10, 20 / 20, 30 / 12]))
    assert gn.ratio_to_none == pytest.approx(statistics.median([15 / 5, 20 / 5, 30 / 6]))
    assert rows["bn", "auto"].speedup_over_tutorial == pytest.approx(statistics.median([20 / 10, 40 / 20, 30 / 12]))
    assert rows["bn", "tutorial"].ratio_to_bn == 1
    assert rows["bn", "tutorial"].ratio_to_none is None  # no tutorial loop without a norm was timed
    assert gn.speedup_over_tutorial is None


def test_trainings_at_once_are_compared_with_as_many_and_drawn_by_their_number(tmp_path: Path) -> None:
    rows = with_ratios(
        [
            train_row("bn", "auto", 8, 8),
            train_row("bn", "auto", 6, 6, runs_at_once=2),
            train_row("none", "auto", 4, 4),
            train_row("none", "auto", 2, 2, runs_at_once=2),
        ]
    )
    assert [row.ratio_to_none for row in rows] == [2.0, 3.0, 1.0, 1.0]
    results = train_results().model_copy(update={"rows": rows})
    assert "auto, 2 at once" in train_tables(results)[0].columns[1].cells
    figure = draw_at_once(results)
    drawn = {tuple(line.get_xdata()): list(line.get_ydata()) for line in figure.axes[0].lines[:1]}
    assert drawn == {(1, 2): pytest.approx([3600 / (0.008 * 782), 3600 / (0.006 * 782)])}
    assert (tmp_path / "at_once.png") in write_results(tmp_path, results)
    assert draw_at_once(train_results()) is None


def test_times_follow_from_the_samples() -> None:
    row = train_row("bn", "auto", 10, 20, 12)
    assert row.ms_per_step == pytest.approx(12)
    assert row.ms_mad == pytest.approx(2)
    assert row.steps_per_second == pytest.approx(1000 / 12)
    assert row.images_per_second == pytest.approx(64_000 / 12)
    failed = train_row("bn", "auto")
    assert (failed.ms_per_step, failed.ms_mad, failed.images_per_second) == (None, None, None)


def test_the_table_holds_what_was_measured_and_names_what_failed() -> None:
    table, breakdown = train_tables(train_results())
    columns = {column.header: column.cells for column in table.columns}
    assert columns["norm"] == ("bn", "bn", "gn", "none", "frn")
    assert columns["ms/step"] == ("30.00", "12.00", "20.00", "5.000", "-")
    assert columns["epoch s"] == ("-", "4.000", "-", "-", "-")
    assert columns["x bn"] == ("1.00", "1.00", "1.50", "0.50", "-")
    assert columns["speedup"] == ("1.00", "2.00", "-", "-", "-")
    assert "peak MiB" not in columns  # nothing was measured
    assert table.notes[0] == "frn, auto, batch 64: RuntimeError: no"
    assert [column.cells for column in breakdown.columns[-4:]] == [("50.0",), ("20.0",), ("10.0",), ("20.0",)]


def test_the_table_of_layers_says_bandwidth_and_path() -> None:
    (table,) = layer_tables(layer_results())
    bn = [column.cells[0] for column in table.columns]
    # 16 MiB read and written in 2 ms is half of the copy in 1 ms; backward moves three in 3 ms.
    assert bn == ["bn", "native", "2000", "0", "17", "50%", "3000", "0", "17", "50%", "32.0"]
    assert table.title == "64x64x32x32 float32, 16.0 MiB; copy 34 GB/s"
    assert table.notes[0] == "gn, native, 64x64x32x32: RuntimeError: no"
    assert table.notes[-1] == "native: no fused kernels on cpu (bn, gn)"


@pytest.mark.parametrize("results", [train_results(), train_results(interrupted=True), layer_results()])
def test_results_are_written_and_read_back(results: TrainResults | LayerResults, tmp_path: Path) -> None:
    folder = make_folder(tmp_path, results.bench, datetime(2026, 11, 23, 4, 5, 6, tzinfo=UTC))
    assert folder.name == f"bench-{results.bench}-20261123t040506z"
    paths = write_results(folder, results)
    assert sorted(path.name for path in paths) == sorted(path.name for path in folder.iterdir())
    assert read_results(folder) == results
    content = json.loads((folder / "results.json").read_text())
    assert content["schema_version"] == 1
    assert content["rows"][0].keys() >= ({"ms_per_step"} if results.bench == "train" else {"forward_gb_per_s"})
    page = (folder / "table.md").read_text()
    assert "RuntimeError: no" in page
    assert f"]({paths[-1].name})" in page
    assert paths[-1].read_bytes().startswith(b"\x89PNG")
    assert ("interrupted" in page) is results.interrupted


def test_two_benchmarks_of_one_second_have_folders_of_their_own(tmp_path: Path) -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    names = [make_folder(tmp_path, "train", now).name for _ in range(3)]
    assert names == [f"bench-train-20260102t030405z{suffix}" for suffix in ("", "-2", "-3")]


def test_folders_that_cannot_be_made_or_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="cannot be made"):
        make_folder(tmp_path / "file", "train", datetime.now(UTC))
    with pytest.raises(RunError, match="not a readable benchmark"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(RunError, match="not a readable benchmark"):
        read_results(tmp_path)


def test_pictures_show_the_medians_and_are_left_out_where_nothing_was_measured() -> None:
    figure = draw_train(train_results())
    dots = [line.get_xdata()[0] for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    assert sorted(dots) == pytest.approx([5, 12, 20, 30])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["bn", "gn", "none"]
    figure = draw_layers(layer_results())
    dots = [line.get_xdata()[0] for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    assert dots == pytest.approx([0.5, 0.5])
    failed = [row.model_copy(update={"seconds_per_step": ()}) for row in train_results().rows]
    assert draw_train(train_results().model_copy(update={"rows": tuple(failed)})) is None


def test_a_table_of_steps_marks_norms_without_a_kernel_beside_fused_ones() -> None:
    native = "native: no fused kernel for CustomBatchNorm"
    rows = (train_row("bn", "auto", 10, norm_path="fused"), train_row("custom_bn", "auto", 20, norm_path=native))
    rows += (train_row("evonorm_s0", "auto", 9, norm_path=f"fused (3 layers); {native} (1 layer)"),)
    results = TrainResults(started_at=STARTED, settings={"rounds": 1}, environment=ENVIRONMENT, rows=rows)
    (table,) = train_tables(results)
    column = next(column for column in table.columns if column.header == "norms ran")
    assert column.cells == ("fused", "native", "partly")
    assert f"{native} (custom_bn)" in table.notes
    unfused = results.model_copy(update={"rows": rows[1:2]})
    assert "norms ran" not in [column.header for column in train_tables(unfused)[0].columns]
