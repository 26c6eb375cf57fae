"""Tables take times from timing.json where norms were timed against each other, and from the runs where not."""

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from normbench.report import write_report_of
from normbench.report.columns import format_ratio, format_spread
from normbench.report.comparison_table import Table
from normbench.report.drawing import Draw
from normbench.report.formats import FORMATS
from normbench.report.page import Report
from normbench.report.stats import Spread
from normbench.runs.records import read_experiment, read_run
from normbench.runs.timing_file import SkippedNorm, TimedNorm, Timing, TimingSession

NewRun = Callable[..., Path]
MACHINE = {"device": "cuda", "device_name": "NVIDIA H100 80GB HBM3", "torch": "2.11.0", "cuda": "13.0"}

# Seconds per step, by round. All slows down by half in the second round, which medians do not mind.
BN = (0.0010, 0.0015, 0.0010, 0.0010)
GN = (0.0020, 0.0030, 0.0020, 0.0022)


def timed(run: Path, seconds: tuple[float, ...], steps_per_epoch: float = 1000.0, **more: float) -> TimedNorm:
    config = read_run(run).config
    return TimedNorm(
        label=config.label, config=config.timing_fields, seconds_per_step=seconds, steps_per_block=30,
        steps_per_epoch=steps_per_epoch, **more,
    )  # fmt: skip


def write_timing(folder: Path, *timed_norms: TimedNorm, skipped: tuple[SkippedNorm, ...] = (), **machine: str) -> None:
    session = TimingSession(environment=MACHINE | machine, measured_at="2026-01-01", timed=timed_norms, skipped=skipped)
    (folder / "timing.json").write_text(Timing(sessions=(session,)).model_dump_json())


def table_of(folder: Path, baseline: str | None = None) -> Table:
    (table,) = Report(read_experiment(folder), baseline).tables
    return table


@pytest.fixture
def runs(tmp_path: Path, new_run: NewRun) -> dict[str, Path]:
    return {norm: new_run(tmp_path, norm, steps_per_epoch=4) for norm in ("bn", "gn")}


def test_times_and_ratios_come_from_rounds(tmp_path: Path, runs: dict[str, Path]) -> None:
    write_timing(tmp_path, timed(runs["bn"], BN), timed(runs["gn"], GN))
    table = table_of(tmp_path)
    bn, gn = table.rows
    assert (bn.epoch_seconds.median, bn.epoch_seconds.mad, bn.epoch_seconds.n) == (1.0, 0.0, 4)
    assert gn.epoch_seconds.median == pytest.approx(2.1)
    assert gn.relative_time == pytest.approx(gn.epoch_seconds.median / bn.epoch_seconds.median)
    assert (bn.relative_time, bn.relative_time_mad) == (1.0, 0.0)
    assert gn.relative_time_mad == pytest.approx(0.1)  # of 2, 2, 2 and 2.2 from 2.1
    assert {row.time_source for row in table.rows} == {"interleaved"}
    assert "interleaved in one process after training, median of 4 rounds ±" in table.cost_caption
    assert "on NVIDIA H100 80GB HBM3" in table.cost_caption
    assert "over runs and epochs" not in table.cost_caption
    assert table_of(tmp_path, "gn").rows[0].relative_time == pytest.approx(1 / 2.1)


@pytest.mark.parametrize(
    ("ratio", "mad", "text"),
    [(1.239, 0.021, "1.24 ± 0.02x"), (1.02, 0.05, "about 1x"), (0.9, 0.02, "0.90 ± 0.02x"), (1.3, None, "1.30x"),
     (1.3, 0.001, "1.30x"), (None, None, "-")],
)  # fmt: skip
def test_a_ratio_is_written_with_its_spread(
    tmp_path: Path, runs: dict[str, Path], ratio: float | None, mad: float | None, text: str
) -> None:
    write_timing(tmp_path, timed(runs["bn"], BN), timed(runs["gn"], GN))
    bn, gn = table_of(tmp_path).rows
    assert format_ratio(replace(gn, relative_time=ratio, relative_time_mad=mad)) == text
    assert format_ratio(bn) == "1x"


def test_a_deviation_that_rounds_to_nothing_is_not_written() -> None:
    assert format_spread(Spread(0.1942, 0.0001, 10)) == "0.194"
    assert format_spread(Spread(0.1942, 0.0006, 10)) == "0.194 ± 0.001"
    assert format_spread(Spread(0.1942, 0.0, 1)) == "0.194"


def test_every_format_shows_the_same_times(tmp_path: Path, runs: dict[str, Path], draw_nothing: Draw) -> None:
    write_timing(tmp_path, timed(runs["bn"], BN), timed(runs["gn"], GN))
    write_report_of(Report(read_experiment(tmp_path)), draw=draw_nothing)
    report = tmp_path / "report"
    for name in ("report.html", "report.md", "table.md", "table.tex"):
        text = (report / name).read_text()
        assert re.search(r"2\.10 (±|\$\\pm\$) 0\.10x", text), name
        assert "interleaved in one process after training" in text, name
    rows = list(csv.DictReader(io.StringIO((report / "table.csv").read_text())))
    assert [float(row["epoch_seconds_median"]) for row in rows] == pytest.approx([1.0, 2.1])
    assert [row["epoch_seconds_source"] for row in rows] == ["interleaved"] * 2
    (table,) = json.loads((report / "table.json").read_text())["tables"]
    assert [row["relative_time"] for row in table["rows"]] == pytest.approx([1.0, 2.1])
    assert "2.10 ± 0.10" in FORMATS["text"]([table_of(tmp_path)])


@pytest.mark.parametrize("other", [{"device_name": "NVIDIA A100"}, {"torch": "2.12.0"}, {"cuda": "12.8"}])
def test_times_of_another_machine_or_version_do_not_count(tmp_path: Path, runs: dict[str, Path], other: Any) -> None:
    write_timing(tmp_path, timed(runs["bn"], BN), timed(runs["gn"], GN), **other)
    table = table_of(tmp_path)
    assert {row.time_source for row in table.rows} == {"runs"}
    assert "over runs and epochs" in table.cost_caption
    assert not table.notes


def test_time_to_an_accuracy_counts_epochs_as_they_were_timed(tmp_path: Path, new_run: NewRun) -> None:
    """And not as runs that shared the device measured them, some more than others."""
    runs = {
        norm: [new_run(tmp_path, norm, seed, accuracy=0.95, epochs=6, steps_per_epoch=4) for seed in range(3)]
        for norm in ("bn", "gn", "in")
    }
    write_timing(tmp_path, timed(runs["bn"][0], BN), timed(runs["gn"][0], GN))
    table = table_of(tmp_path)
    rows = {row.norm: row for row in table.rows}
    for norm, seconds in (("bn", 1.0), ("gn", 2.1), ("in", None)):
        times = []
        for run in runs[norm]:
            epochs = read_run(run).epochs
            needed = next(epoch.epoch for epoch in epochs if epoch.test_accuracy >= 0.9)
            own = sum(epoch.train_seconds for epoch in epochs[:needed])
            times.append(own if seconds is None else needed * seconds)
        assert rows[norm].seconds_to_reach["0.90"] == pytest.approx(median(times))
    assert "epochs times the time per epoch or, where the notes say so, as the runs" in table.cost_caption


def test_a_norm_that_was_not_timed_keeps_the_times_of_its_runs_and_is_named(
    tmp_path: Path, runs: dict[str, Path], new_run: NewRun
) -> None:
    slow = new_run(tmp_path, "in", epoch_seconds=1.0, steps_per_epoch=4)
    new_run(tmp_path, "ln", epoch_seconds=1.0, steps_per_epoch=4)
    new_run(tmp_path, "frn", state="diverged", reason="nan", steps_per_epoch=4)
    skipped = SkippedNorm(label="in", config=read_run(slow).config.timing_fields, reason="out of memory")
    write_timing(tmp_path, timed(runs["bn"], BN), timed(runs["gn"], GN), skipped=(skipped,))
    table = table_of(tmp_path)
    rows = {row.label: row for row in table.rows}
    assert (rows["in"].time_source, rows["bn"].time_source, rows["frn"].time_source) == ("runs", "interleaved", None)
    assert rows["in"].epoch_seconds.median == pytest.approx(1.0, rel=0.05)
    assert rows["in"].relative_time == pytest.approx(2.0, rel=0.05)  # of the runs' medians, 1.0 and 0.5
    assert "in: time per epoch from the runs, each by itself (out of memory)." in table.notes
    assert "ln: time per epoch from the runs, each by itself (not timed with the others)." in table.notes
    assert "Where the notes say so, time per epoch comes from the runs" in table.cost_caption


def test_memory_is_that_of_the_norm_alone_where_the_pass_measured_it(tmp_path: Path, runs: dict[str, Path]) -> None:
    write_timing(tmp_path, timed(runs["bn"], BN, peak_memory_mib=187.5), timed(runs["gn"], GN))
    table = table_of(tmp_path)
    assert [row.peak_memory_mib for row in table.rows] == [187.5, 412.5]
    assert "Peak memory: each norm's alone, as measured when it was timed, or else the largest of the runs." in (
        table.cost_caption
    )


def test_times_of_runs_that_shared_the_device_are_refused(tmp_path: Path, new_run: NewRun) -> None:
    """They are those of the clock: gn's runs seem slow because others were trained beside them."""
    shared = {"concurrent_runs": 4}
    runs = {
        norm: new_run(tmp_path, norm, steps_per_epoch=4, epoch_seconds=7.77, accuracy=0.95, environment=facts)
        for norm, facts in (("bn", shared), ("gn", shared), ("in", shared), ("ln", None))
    }
    write_timing(tmp_path, timed(runs["bn"], BN), timed(runs["gn"], GN))
    report = Report(read_experiment(tmp_path))
    (table,) = report.tables
    rows = {row.label: row for row in table.rows}
    assert [rows[norm].time_source for norm in ("bn", "gn", "in", "ln")] == ["interleaved", "interleaved", None, "runs"]
    assert rows["in"].epoch_seconds is rows["in"].relative_time is None
    assert rows["in"].seconds_to_reach["0.90"] is None
    assert rows["gn"].seconds_to_reach["0.90"] > 0
    assert [rows[norm].peak_memory_mib for norm in ("bn", "in", "ln")] == [None, None, 412.5]  # as of its run alone
    said = "in: no time per epoch; the runs shared the device with others, and were not timed apart."
    assert said in table.notes
    figures = {figure.name: figure for figure in report.figures}
    (axes,) = figures["accuracy_time"].figure.axes
    assert len(axes.containers) == 3  # a curve each, but for in


def test_without_any_time_there_is_no_figure_over_time(tmp_path: Path, new_run: NewRun) -> None:
    new_run(tmp_path, "bn", steps_per_epoch=4, environment={"concurrent_runs": 4})
    names = [figure.name for figure in Report(read_experiment(tmp_path)).figures]
    assert "accuracy" in names
    assert "accuracy_time" not in names


def test_norms_timed_in_parts_are_compared_within_their_part(
    tmp_path: Path, runs: dict[str, Path], new_run: NewRun
) -> None:
    other = new_run(tmp_path, "in", steps_per_epoch=4)
    parts = [
        (timed(runs["bn"], BN), timed(runs["gn"], GN)),
        (timed(runs["bn"], (0.002,) * 4), timed(other, (0.003,) * 4)),
    ]
    sessions = tuple(TimingSession(environment=MACHINE, measured_at="2026-01-01", timed=part) for part in parts)
    (tmp_path / "timing.json").write_text(Timing(sessions=sessions).model_dump_json())
    rows = {row.label: row.relative_time for row in table_of(tmp_path).rows}
    assert rows == {"bn": 1.0, "gn": pytest.approx(2.1), "in": pytest.approx(1.5)}
    assert {row.label: row.relative_time for row in table_of(tmp_path, "gn").rows}["in"] is None


def test_a_learning_rate_does_not_change_the_time(tmp_path: Path, new_run: NewRun) -> None:
    first = new_run(tmp_path, "bn", steps_per_epoch=4)
    gn = new_run(tmp_path, "gn", steps_per_epoch=4)
    new_run(tmp_path, "bn", train={"learning_rate": 0.01}, steps_per_epoch=4, folder_name="bn-other")
    write_timing(tmp_path, timed(first, BN), timed(gn, GN))
    assert {row.time_source for row in table_of(tmp_path).rows} == {"interleaved"}


def test_a_damaged_timing_or_run_is_named_and_the_rest_reported(tmp_path: Path, runs: dict[str, Path]) -> None:
    (tmp_path / "timing.json").write_text('{"sessions": [{}]}')
    broken = tmp_path / "gn-broken"
    broken.mkdir()
    (broken / "status.json").write_text("{")
    table = table_of(tmp_path)
    assert [row.label for row in table.rows] == ["bn", "gn"]
    assert {row.time_source for row in table.rows} == {"runs"}
    assert any(f"{broken}: not a readable run folder" in note for note in table.notes)
    assert any("timing.json: cannot be read" in note for note in table.notes)
