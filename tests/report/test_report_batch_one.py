"""The probe at batch size 1: the rule of docs/batch_one.md, its column, and that it stays out of the comparison."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from normbench.report import write_report, write_report_of
from normbench.report.batch_one import stability
from normbench.report.columns import format_stability
from normbench.report.drawing import Draw
from normbench.report.formats import to_csv, to_json, to_markdown
from normbench.report.page import Report
from normbench.report.recorded_runs import load_runs
from normbench.runs.records import read_experiment

NewRun = Callable[..., Path]


@pytest.mark.parametrize(
    ("accuracies", "best", "expected"),
    [
        ([0.35], 0.35, "stable"),
        ([0.30], 0.35, "stable"),  # exactly 0.2 / 0.25 = 80 %
        ([0.28, 0.31], 0.35, "degraded"),
        ([0.225], 0.35, "degraded"),  # 50 %
        ([0.22], 0.35, "collapsed"),
        ([0.09], 0.35, "collapsed"),
        ([0.10], 0.14, None),  # nothing has learned
        ([], 0.35, None),
        ([0.35], None, None),
    ],
)
def test_the_verdict_is_a_share_of_the_best_gain_over_chance(
    accuracies: list[float], best: float | None, expected: str | None
) -> None:
    assert stability([accuracy + 1e-9 for accuracy in accuracies], 0, best) == expected


def test_a_diverged_run_is_a_collapse() -> None:
    assert stability([0.35], 1, 0.35) == "collapsed"


def new_probe(new_run: NewRun, folder: Path, norm: str, seed: int, accuracy: float, **more: object) -> None:
    """Write a probe's run: an ordinary one whose config says so."""
    name = f"{norm}-norm_resnet-bs1-s{seed}-0000000{seed}"
    train = {"batch_size": 1, "learning_rate": 1.25e-4}
    run = new_run(
        folder, norm, seed, accuracy=accuracy, train=train, epochs=1, steps_per_epoch=50, folder_name=name, **more
    )
    config = yaml.safe_load((run / "config.yaml").read_text())
    config |= {"probe": "batch_one", "dataset": {"name": "cifar10", "options": {"num_train": 2000}}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    if (run / "summary.json").exists():
        summary = json.loads((run / "summary.json").read_text()) | {"batch_statistics_accuracy": accuracy + 0.05}
        (run / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def probed(tutorial: Path, new_run: NewRun) -> Path:
    """The tutorial with a probe; IN diverged once."""
    for seed in range(3):
        for norm, accuracy in {"bn": 0.18, "ln": 0.33, "gn": 0.36, "none": 0.35}.items():
            new_probe(new_run, tutorial, norm, seed, accuracy + 0.002 * (seed - 1))
        failure = {"state": "diverged", "reason": "nan", "diverge_at": 3} if seed == 2 else {}
        new_probe(new_run, tutorial, "in", seed, 0.34, **failure)
    return tutorial


def test_the_column_says_what_was_measured(probed: Path) -> None:
    (table,) = Report(read_experiment(probed)).tables
    found = {row.norm: row.batch_one for row in table.rows}
    assert {norm: entry and entry.stability for norm, entry in found.items()} == {
        "bn": "collapsed",  # 0.08 / 0.26
        "ln": "stable",
        "in": "collapsed",
        "gn": "stable",
    }
    assert "18.00 ± 0.50 / 23.00, collapsed" in to_markdown([table])
    assert "34.00 ± 0.00 / 39.00, collapsed, 1 diverged" in to_markdown([table])
    assert "after 2,000 steps on one image each at learning rate 0.000125" in table.caption
    assert "(gn, 36.0 %)" in table.caption
    assert "Without a norm: 35.0 %." in table.caption
    rows = {row["norm"]: row for row in csv.DictReader(io.StringIO(to_csv([table])))}
    assert float(rows["bn"]["batch_one_accuracy"]) == pytest.approx(0.18)
    assert float(rows["bn"]["batch_one_batch_statistics_accuracy"]) == pytest.approx(0.23)
    assert rows["bn"]["batch_one_stability"] == "collapsed"
    assert json.loads(to_json([table]))["tables"][0]["rows"][0]["batch_one"]["stability"] == "collapsed"


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ((0.229, 0.231, 0.23), "degraded"),  # all close to half of the best's gain and above
        ((0.21, 0.25, 0.22), "degraded (or collapsed)"),
        ((0.17, 0.30, 0.19), "collapsed (or stable or degraded)"),
        ((0.15, 0.151, 0.152), "collapsed"),
    ],
)
def test_a_verdict_that_other_seeds_may_change_says_so(
    tmp_path: Path, new_run: NewRun, accuracies: tuple[float, ...], expected: str
) -> None:
    """The best has 0.350, 0.351 and 0.352: the lines are at about 0.30 and 0.225."""
    for seed, accuracy in enumerate(accuracies):
        for norm, reached in (("bn", accuracy), ("gn", 0.35 + 0.001 * seed)):
            new_run(tmp_path, norm, seed)
            new_probe(new_run, tmp_path, norm, seed, reached)
    (table,) = Report(read_experiment(tmp_path)).tables
    assert [format_stability(row.batch_one) for row in table.rows if row.batch_one] == [expected, "stable"]


def test_the_probe_enters_nothing_else(probed: Path, draw_nothing: Draw) -> None:
    report = Report(read_experiment(probed))
    (table,) = report.tables
    assert [row.norm for row in table.rows] == ["bn", "ln", "in", "gn"]
    assert table.varied == ()
    assert all(row.runs == "3/3" for row in table.rows)
    assert table.failures == ()
    assert sum(row["probe"] == "batch_one" for row in load_runs(probed)) == 15
    assert len(load_runs(probed)) == 27
    write_report_of(report, draw=draw_nothing)
    assert "at batch size 1" in (probed / "report" / "report.html").read_text()


def test_without_a_probe_there_is_no_column(tutorial: Path) -> None:
    (table,) = Report(read_experiment(tutorial)).tables
    assert "batch size 1" not in to_markdown([table])


def test_a_probe_on_another_device_is_not_mixed_in(tutorial: Path, new_run: NewRun) -> None:
    new_probe(new_run, tutorial, "bn", 0, 0.3, environment={"device_name": "another GPU"})
    (table,) = Report(read_experiment(tutorial)).tables
    assert [row.batch_one for row in table.rows] == [None] * 4


def test_a_report_over_probes_alone_has_no_table(tmp_path: Path, new_run: NewRun) -> None:
    new_probe(new_run, tmp_path / "x", "bn", 0, 0.3)
    write_report(tmp_path / "x")
    assert json.loads((tmp_path / "x" / "report" / "table.json").read_text())["tables"] == []
