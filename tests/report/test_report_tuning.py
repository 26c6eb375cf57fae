"""Tuned learning rates in a report: two tables, the answers that name them, and what a smaller budget would find."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from normbench.report.page import Report
from normbench.report.tuning import expected_best
from normbench.runs.records import read_experiment
from normbench.runs.tuning_file import Trial, Tuning, read_tuning, write_tuning

RATES = (3e-4, 1e-3, 3e-3, 1e-2)


def tuning(best: dict[str, int], split: str = "val") -> Tuning:
    """Each norm's score falls by a point a rate away from its best; the second seed is a point above the first."""
    trials = [
        Trial(label=label, learning_rate=rate, accuracies=(0.7 - 0.01 * abs(i - at), 0.71 - 0.01 * abs(i - at)))
        for label, at in best.items()
        for i, rate in enumerate(RATES)
    ]
    return Tuning(experiment="t-tune", split=split, seeds=(10_000, 10_001), shared_rate=1e-3, trials=tuple(trials))  # type: ignore[arg-type]


@pytest.fixture
def tuned(tmp_path: Path, new_run: Callable[..., Path], new_settings: Callable[..., None]) -> Path:
    """bn's own rate is the shared one, gn's is the highest; there gn gains five points."""
    new_settings(tmp_path, ["bn", "gn"], [0, 1, 2, 3])
    write_tuning(tmp_path, tuning({"bn": 1, "gn": 3}))
    for seed in range(4):
        noise = 0.001 * (-1) ** seed
        new_run(tmp_path, "bn", seed, accuracy=0.72, steps_per_epoch=2, train={"learning_rate": 1e-3})
        for rate, accuracy in ((1e-3, 0.70), (1e-2, 0.75)):
            name = f"gn-{rate}-{seed}"
            train = {"learning_rate": rate}
            new_run(tmp_path, "gn", seed, accuracy=accuracy + noise, steps_per_epoch=2, train=train, folder_name=name)
    return tmp_path


def test_the_comparison_stands_at_one_rate_and_at_each_norms_own(tuned: Path) -> None:
    report = Report(read_experiment(tuned))
    shared, own = report.tables
    assert [[row.learning_rate for row in table.rows] for table in report.tables] == [[1e-3, 1e-3], [1e-3, 1e-2]]
    assert [row.runs for table in report.tables for row in table.rows] == ["4/4"] * 4
    verdicts = [table.rows[1].results["test_accuracy"].comparison.verdict for table in report.tables]  # type: ignore[union-attr]
    assert verdicts == ["worse", "better"]
    answers = [part.answers[0] for part in report.parts]
    assert answers[0].startswith("under this protocol, with one learning rate for all norms (0.001), bn is best")
    assert "each norm at its own learning rate, the best of 4 on held-out images over 2 seeds, gn is best" in answers[1]
    assert shared.notes == ()
    (note,) = own.notes
    assert note.startswith("gn: its best learning rate, 0.01, is the highest that was tried")


def test_without_a_shared_rate_there_is_one_table_whichever_rates_were_chosen(
    tmp_path: Path, new_run: Callable[..., Path], new_settings: Callable[..., None]
) -> None:
    new_settings(tmp_path, ["bn", "gn"], [0])
    write_tuning(tmp_path, tuning({"bn": 1, "gn": 3}).model_copy(update={"shared_rate": None}))
    for norm, rate in (("bn", 1e-3), ("gn", 1e-2)):
        new_run(tmp_path, norm, 0, accuracy=0.7, steps_per_epoch=2, train={"learning_rate": rate})
    report = Report(read_experiment(tmp_path))
    (table,) = report.tables
    assert [row.label for row in table.rows] == ["bn", "gn"], "in one setting, though their rates differ"
    assert table.title == tmp_path.name
    assert [chapter.anchor for chapter in report.chapters].count("tuning") == 1


def test_the_chapter_has_every_trial(tuned: Path) -> None:
    chapter = next(chapter for chapter in Report(read_experiment(tuned)).chapters if chapter.anchor == "tuning")
    (grid,) = chapter.grids
    assert grid.headers == ("norm", "0.0003", "0.001", "0.003", "0.01", "chosen")
    assert grid.rows == (
        ("bn", "69.50", "70.50", "69.50", "68.50", "0.001"),
        ("gn", "67.50", "68.50", "69.50", "70.50", "0.01 (highest tried)"),
    )
    assert "held out" in chapter.text[0]


def test_a_run_without_result_counts_as_nothing_and_equal_scores_take_the_lower_rate(tmp_path: Path) -> None:
    trials = (
        Trial(label="bn", learning_rate=1e-2, accuracies=(0.9, None)),
        Trial(label="bn", learning_rate=1e-3, accuracies=(0.5, 0.6)),
        Trial(label="bn", learning_rate=1e-4, accuracies=(0.6, 0.5)),
    )
    write_tuning(tmp_path, Tuning(shared_rate=1e-3, trials=trials))
    found = read_tuning(tmp_path)
    assert found.chosen == {"bn": 1e-4}
    assert found.at_edge("bn") == "lowest"
    assert found.of("bn")[-1].score == 0.45


def test_expected_best_is_that_of_draws() -> None:
    scores = [0.61, 0.70, 0.66, 0.705, 0.10]
    found = expected_best(scores)
    draws = np.random.default_rng(0).choice(scores, size=(100_000, len(scores)))
    for budget in range(1, len(scores) + 1):
        best = draws[:, :budget].max(axis=1)
        assert found.mean[budget - 1] == pytest.approx(best.mean(), abs=2e-3)
        assert found.std[budget - 1] == pytest.approx(best.std(), abs=2e-3)
    assert found.mean[0] == pytest.approx(np.mean(scores))


def test_each_norm_has_axes_of_its_own_with_its_expected_best(tuned: Path) -> None:
    chapter = next(chapter for chapter in Report(read_experiment(tuned)).chapters if chapter.anchor == "tuning")
    figure = chapter.figures[0].figure
    assert [axes.get_title() for axes in figure.axes] == ["bn", "gn"]
    for axes, best in zip(figure.axes, (1, 3), strict=True):
        scores = [70.5 - abs(rate - best) for rate in range(len(RATES))]
        (line,) = [line for line in axes.lines if line.get_marker() == "o"]
        assert line.get_ydata() == pytest.approx(100 * expected_best([score / 100 for score in scores]).mean)
    assert "n = 2 seeds" in figure.get_suptitle()  # of the trials; the comparison has four


def test_no_name_of_an_axis_is_cut_off(tuned: Path) -> None:
    chapter = next(chapter for chapter in Report(read_experiment(tuned)).chapters if chapter.anchor == "tuning")
    figure = chapter.figures[0].figure
    extents = {text.get_text(): text.get_window_extent() for text in figure.texts}
    name, heading = extents["held-out accuracy (%)"], extents[figure.get_suptitle()]
    assert 0 <= name.y0 < name.y1 < heading.y0
