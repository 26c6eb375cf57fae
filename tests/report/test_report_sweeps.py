from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from normbench.report.build_table import seconds_to_reach
from normbench.report.classification_report import TEST_ERROR
from normbench.report.columns import sensitivity_cells
from normbench.report.curves import accuracy_over_time
from normbench.report.figure_style import panels, setting_title
from normbench.report.grouping import sections
from normbench.report.page import Report
from normbench.report.stats import summarize
from normbench.report.sweeps import learning_rate_sensitivity, sweep_figure, sweeps
from normbench.runs.records import read_experiment, read_run

NewRun = Callable[..., Path]


def test_error_against_batch_size_with_a_rule_for_the_learning_rate_is_one_sweep(
    tmp_path: Path, new_run: NewRun
) -> None:
    accuracies = {4: [0.70, 0.71, 0.69], 64: [0.75, 0.752, 0.748], 256: [0.74, 0.741, 0.745]}
    for batch_size, values in accuracies.items():
        for seed, accuracy in enumerate(values):
            train = {"batch_size": batch_size, "learning_rate": 1e-3 * batch_size / 64}
            new_run(tmp_path, "bn", seed, accuracy=accuracy, steps_per_epoch=4, train=train)
            new_run(tmp_path, "gn", seed, accuracy=0.7, steps_per_epoch=4, train=train)
    (sweep,) = sweeps(sections(read_experiment(tmp_path)))
    assert (sweep.path, len(sweep.panels)) == ("train.batch_size", 1)
    (axes,) = sweep_figure(sweep, TEST_ERROR).axes
    line = axes.containers[0]
    expected = [summarize(values) for values in accuracies.values()]
    errors = [100 * (1 - estimate.mean) for estimate in expected if estimate]
    assert np.asarray(line[0].get_ydata()) == pytest.approx(errors)
    assert np.asarray(line[0].get_xdata()) == pytest.approx([4, 64, 256], rel=0.03)
    low_to_high = [np.diff(segment[:, 1])[0] / 2 for segment in line[2][0].get_segments()]
    assert low_to_high == pytest.approx([100 * (e.half_width or 0) for e in expected if e])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "64", "256"]
    assert axes.get_ylabel() == "test error (%)"


def test_a_norm_without_result_is_marked_and_other_fields_get_panels(tmp_path: Path, new_run: NewRun) -> None:
    for smoothing in (0.0, 0.1):
        for batch_size in (4, 64):
            train = {"batch_size": batch_size, "label_smoothing": smoothing}
            broken = batch_size == 4 and smoothing == 0.0
            state = {"state": "diverged", "reason": "nan", "diverge_at": 3} if broken else {}
            name = f"bn-{batch_size}-{smoothing}"
            new_run(tmp_path, "bn", 0, train=train, folder_name=name, steps_per_epoch=4, **state)
    (sweep,) = sweeps(sections(read_experiment(tmp_path)))
    figure = sweep_figure(sweep, TEST_ERROR)
    assert [axes.get_title() for axes in figure.axes] == ["label smoothing 0", "label smoothing 0.1"]
    crosses = [[line for line in axes.lines if line.get_marker() == "x"] for axes in figure.axes]
    assert [len(found) for found in crosses] == [1, 0]
    assert "no completed run" in figure.legends[0].get_title().get_text()


def test_no_panel_is_cut_at_the_range_of_another(tmp_path: Path, new_run: NewRun) -> None:
    for smoothing, accuracies in ((0.0, (0.6, 0.61)), (0.1, (0.9, 0.2))):
        for batch_size, accuracy in zip((4, 64), accuracies, strict=True):
            train = {"batch_size": batch_size, "label_smoothing": smoothing}
            name = f"bn-{batch_size}-{smoothing}"
            new_run(tmp_path, "bn", 0, accuracy=accuracy, train=train, folder_name=name, steps_per_epoch=4)
    (sweep,) = sweeps(sections(read_experiment(tmp_path)))
    for axes in sweep_figure(sweep, TEST_ERROR).axes:
        low, high = axes.get_ylim()
        assert low < 10 < 80 < high


def test_panels_stand_in_the_order_of_their_settings(tmp_path: Path, new_run: NewRun) -> None:
    for smoothing in (0.2, 0.0, 0.1):
        for batch_size in (4, 64):
            train = {"batch_size": batch_size, "label_smoothing": smoothing}
            new_run(tmp_path, "bn", train=train, folder_name=f"{9 - 10 * smoothing}-{batch_size}", steps_per_epoch=4)
    (sweep,) = sweeps(sections(read_experiment(tmp_path)))
    assert [panel.title for panel in sweep.panels] == [f"label smoothing {value}" for value in ("0", "0.1", "0.2")]


def test_without_a_sweep_there_is_no_sweep_figure(tutorial: Path) -> None:
    assert sweeps(sections(read_experiment(tutorial))) == []


def test_learning_rate_sensitivity(tmp_path: Path, new_run: NewRun) -> None:
    mean_accuracy = {1e-4: 0.60, 3e-4: 0.715, 1e-3: 0.72, 3e-3: 0.712, 1e-2: 0.65}
    for rate, accuracy in mean_accuracy.items():
        for seed, noise in enumerate((0.001, -0.001)):
            name = f"gn-{rate}-{seed}"
            train = {"learning_rate": rate}
            new_run(tmp_path, "gn", seed, accuracy=accuracy + noise, train=train, folder_name=name, steps_per_epoch=4)
    train = {"learning_rate": 3e-2}
    new_run(tmp_path, "gn", 0, state="diverged", diverge_at=3, train=train, steps_per_epoch=4, folder_name="gn-x")
    (sweep,) = sweeps(sections(read_experiment(tmp_path)))
    (found,) = learning_rate_sensitivity(sweep)
    assert found.best is not None
    assert (found.best.rate, found.best.low, found.best.high, found.fails_from) == (1e-3, 3e-4, 3e-3, 3e-2)
    assert found.best.accuracy.mean == pytest.approx(0.72)
    assert found.best.decades == pytest.approx(1.0)


@pytest.mark.parametrize(("loss", "fails_from"), [(2.303, 1e-2), (2.302, None)])
def test_a_rate_at_which_nothing_is_learned_fails_without_diverging(
    tmp_path: Path, new_run: NewRun, loss: float, fails_from: float | None
) -> None:
    """Guessing among ten classes has a loss of ln 10 = 2.3026."""
    for rate in (1e-3, 1e-2):
        train = {"learning_rate": rate}
        folder = new_run(tmp_path, "ln", accuracy=0.5, train=train, folder_name=f"ln-{rate}", steps_per_epoch=4)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"train_loss": loss}))
    (sweep,) = sweeps(sections(read_experiment(tmp_path)))
    (found,) = learning_rate_sensitivity(sweep)
    assert found.fails_from == fails_from


def test_what_is_on_or_off_is_named_without_a_value() -> None:
    setting = (("model.options.pre_norm", False), ("train.batch_size", 16))
    assert setting_title(setting) == "no pre norm, batch size 16"
    assert setting_title((("model.options.pre_norm", True),)) == "pre norm"


def test_the_report_says_where_each_norm_diverges(tmp_path: Path, new_run: NewRun) -> None:
    """Also of a norm that diverges everywhere, which has no result to tabulate."""
    diverges_at = {"ln": 1e9, "bn": 1e-2, "none": 1e-3}
    for norm, limit in diverges_at.items():
        for rate in (1e-3, 1e-2):
            state = {"state": "diverged", "diverge_at": 3} if rate >= limit else {}
            name = f"{norm}-{rate}"
            new_run(tmp_path, norm, train={"learning_rate": rate}, folder_name=name, steps_per_epoch=4, **state)
    page = Report(read_experiment(tmp_path))
    assert page.parts[0].answers == (
        "learning rates at which runs diverged or learned nothing: "
        "ln nowhere up to 0.01; bn from 0.01 on; none from 0.001 on.",
        "which norm is best is not resolved at any setting: a verdict takes at least 3 seeds of each.",
    )
    cells = {entry.label: sensitivity_cells(entry) for entry in page.sensitivities}
    assert cells["none"][1:] == ["-", "-", "-", "-", "-", "0.001"]
    assert cells["ln"][-1] == "none up to 0.01"


def test_time_to_an_accuracy_counts_training_alone(tmp_path: Path, new_run: NewRun) -> None:
    folders = [new_run(tmp_path, "bn", seed, accuracy=0.95, epochs=6, steps_per_epoch=4) for seed in range(3)]
    expected = []
    for folder in folders:
        run = read_run(folder)
        first = next(index for index, epoch in enumerate(run.epochs) if epoch.test_accuracy >= 0.9)
        expected.append(sum(epoch.train_seconds for epoch in run.epochs[: first + 1]))
    assert seconds_to_reach(read_run(folders[0]), 0.9) == pytest.approx(expected[0])
    assert seconds_to_reach(read_run(folders[0]), 0.99) is None
    (table,) = Report(read_experiment(tmp_path)).tables
    assert table.rows[0].seconds_to_reach["0.90"] == pytest.approx(np.median(expected))
    new_run(tmp_path, "bn", 3, accuracy=0.85, epochs=6, steps_per_epoch=4)
    (table,) = Report(read_experiment(tmp_path)).tables
    assert table.rows[0].seconds_to_reach["0.90"] is None, "one run never got there"


def test_accuracy_over_time(tmp_path: Path, new_run: NewRun) -> None:
    for seed in range(2):
        new_run(tmp_path, "bn", seed, epochs=4, steps_per_epoch=4)
    runs = read_experiment(tmp_path).runs
    shown = panels(sections(read_experiment(tmp_path)))
    (axes,) = accuracy_over_time(shown, [{}]).axes
    elapsed = np.mean([np.cumsum([epoch.train_seconds for epoch in run.epochs]) for run in runs], axis=0)
    assert np.asarray(axes.lines[0].get_xdata()) == pytest.approx(elapsed)
    assert axes.get_xlabel() == "training time (s)"
    (axes,) = accuracy_over_time(shown, [{shown[0].groups[0].label: 1.5}]).axes
    assert np.asarray(axes.lines[0].get_xdata()) == pytest.approx([1.5, 3.0, 4.5, 6.0])
