"""The forest plot: every comparison of a sweep, drawn where its interval is and as its verdict says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib import image
from matplotlib.colors import to_hex

from normbench.report.figure_style import save_figure
from normbench.report.forest import VERDICTS, forest
from normbench.report.page import Report
from normbench.runs.records import read_experiment
from normbench.tasks.classification import TEST_ACCURACY


def test_each_difference_has_its_interval_and_the_color_of_its_verdict(
    tmp_path: Path, new_run: Callable[..., Path]
) -> None:
    for batch_size, gap in ((4, 0.05), (64, -0.05)):
        for seed in range(3):
            train = {"batch_size": batch_size}
            new_run(tmp_path, "bn", seed, accuracy=0.7, train=train, epochs=1, steps_per_epoch=2)
            accuracy = 0.7 + gap + 0.001 * (seed - 1)
            new_run(tmp_path, "gn", seed, accuracy=accuracy, train=train, epochs=1, steps_per_epoch=2)
    report = Report(read_experiment(tmp_path))
    (found,) = forest(report.sections, report.tables, TEST_ACCURACY)
    (axes,) = found.figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["gn, batch size 4", "gn, batch size 64"]
    comparisons = [row.results["test_accuracy"].comparison for row in report.tables[0].rows if row.norm == "gn"]
    for drawn, comparison in zip(axes.containers, comparisons, strict=True):
        assert comparison is not None
        estimate = comparison.difference.estimate
        ((low, _), (high, _)) = drawn[2][0].get_segments()[0]
        assert (low, high) == pytest.approx((100 * estimate.low, 100 * estimate.high))  # type: ignore[operator]
        assert to_hex(drawn[0].get_color()) == to_hex(VERDICTS[comparison.verdict][0])
    assert [found.verdict for found in comparisons if found] == ["better", "worse"]


def test_a_single_setting_needs_none(tutorial: Path) -> None:
    report = Report(read_experiment(tutorial))
    assert forest(report.sections, report.tables, TEST_ACCURACY) == []


def test_no_label_leaves_the_picture(tmp_path: Path, new_run: Callable[..., Path]) -> None:
    for batch_size in (4, 64):
        for seed in range(3):
            train = {"batch_size": batch_size}
            new_run(tmp_path / "runs", "bn", seed, train=train, epochs=1, steps_per_epoch=2)
            label = "RMSNorm of a transformer, before blocks"  # such letters are wider in files than on a screen
            new_run(tmp_path / "runs", "gn", seed, label=label, train=train, epochs=1, steps_per_epoch=2)
    report = Report(read_experiment(tmp_path / "runs"))
    (found,) = forest(report.sections, report.tables, TEST_ACCURACY)
    (path,) = save_figure(found.figure, tmp_path / "forest", (".png",))
    assert (image.imread(path)[:, :10, :3] == 1).all()  # as much as is left empty around a figure
