"""The chapters on evaluation and robustness: tables, tests and figures from records alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from run_events import SUMMARY, make_plan, make_row
from scipy import stats

from normbench.report import Report, report_texts
from normbench.report.evaluations import PairedImages, estimate_text
from normbench.runs.evaluation_file import (
    NUM_BINS,
    CalibrationBin,
    CorruptionResult,
    Corruptions,
    Evaluation,
    StatisticsResult,
    TrainImages,
    ViewsResult,
    pack_hits,
)
from normbench.runs.records import ExperimentRecord, read_experiment
from normbench.runs.writer import RunFolder

NUM_IMAGES = 60


def evaluation(norm: str, seed: int) -> Evaluation:
    """Of a norm with as many hits as its name has letters more than another, drawn from the seed."""
    rng = np.random.default_rng([len(norm), seed])
    labels, is_hit = np.arange(NUM_IMAGES) % 3, rng.random(NUM_IMAGES) < (0.7 if norm == "bn" else 0.5)
    predicted = np.where(is_hit, labels, (labels + 1) % 3)
    confusion = np.zeros((3, 3), int)
    np.add.at(confusion, (labels, predicted), 1)
    bins = [CalibrationBin(num_images=0, confidence=0, accuracy=0)] * (NUM_BINS - 1)
    accuracy = float(is_hit.mean())

    def result(statistics: str, share: float, size: int | None = None, weights: str = "last") -> StatisticsResult:
        return StatisticsResult(
            weights=weights, statistics=statistics, batch_size=size, num_images=NUM_IMAGES,  # type: ignore[arg-type]
            accuracy=accuracy * share, loss=1.0,
        )  # fmt: skip

    kinds = [
        CorruptionResult(kind=kind, severity=severity, accuracy=accuracy * (1 - 0.1 * severity),
                         adapted_accuracy=accuracy * (1 - 0.05 * severity) if norm == "bn" else None)
        for kind in ("fog", "snow") for severity in (1, 2, 3, 4, 5)
    ]  # fmt: skip
    return Evaluation(
        split="test", num_images=NUM_IMAGES, class_names=("<b>cat", "dog", "bird"), loss=1.25,
        confusion=confusion.tolist(),
        bins=(*bins, CalibrationBin(num_images=NUM_IMAGES, confidence=1, accuracy=accuracy)), hits=pack_hits(is_hit),
        train=TrainImages(num_images=30, accuracy=1.0, loss=0.1),
        views=ViewsResult(num_views=2, accuracy=accuracy * 0.5, loss=1.0) if norm == "bn" else None,
        statistics=(
            *((result("running", 1), result("re-estimated", 0.9), result("batch", 0.8, 8)) if norm == "bn" else ()),
            result("running", 0.7, weights="average"),
            *([result("re-estimated", 0.95, weights="average")] if norm == "bn" else []),
        ),
        num_averaged=2,
        corruptions=Corruptions(source="generated", seed=0, adapted_batch_size=500, results=tuple(kinds)),
        measured_on={"device_name": "a CPU", "torch": "2"},
    )  # fmt: skip


def write_evaluated_run(folder: Path, norm: str, seed: int, *, train_seconds: float = SUMMARY.train_seconds) -> None:
    plan = make_plan(norm, seed=seed)
    run = RunFolder(folder / plan.run_id).acquire()
    run.begin(plan.config, rows=[make_row(1), make_row(2)], losses=[(2.0,)] * 6)
    run.write_environment({"torch": "none", "device": "cpu", "dataset_sha256": "0"})
    run.write_evaluation(evaluation(norm, seed))
    run.finish(SUMMARY.model_copy(update={"train_seconds": train_seconds}), keep_checkpoint=False)
    run.release()


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> ExperimentRecord:
    folder = tmp_path_factory.mktemp("evaluated")
    for norm in ("bn", "gn"):
        for seed in range(3):
            write_evaluated_run(folder, norm, seed)
    return read_experiment(folder)


def grids(experiment: ExperimentRecord) -> dict[str, dict[str, dict[str, str]]]:
    """Cells by the table's title, the row's name and the column's header."""
    return {
        grid.title: {row[0]: dict(zip(grid.headers, row, strict=True)) for row in grid.rows}
        for chapter in Report(experiment).chapters
        for grid in chapter.grids
    }


def test_tables_are_means_with_intervals_over_seeds(experiment: ExperimentRecord) -> None:
    found = grids(experiment)
    accuracies = np.array([evaluation("bn", seed).accuracy for seed in range(3)])
    interval = stats.t.interval(0.95, 2, accuracies.mean(), stats.sem(accuracies))
    expected = f"{100 * accuracies.mean():.2f} ± {100 * (interval[1] - accuracies.mean()):.2f}"
    (bn, gn) = (found["More than accuracy"][name] for name in found["More than accuracy"])
    assert bn["test accuracy (%)"] == expected
    assert bn["2 views (%)"].startswith(f"{50 * accuracies.mean():.2f} ±")
    assert gn["2 views (%)"] == "-"
    assert bn["NLL (nats)"] == "1.250 ± 0.000"
    assert bn["train - test (points)"].startswith(f"{100 * (1 - accuracies.mean()):.2f} ±")
    (bn, gn) = found["Where the statistics come from"].values()
    assert bn["batch of 8"].startswith(f"{80 * accuracies.mean():.2f}")
    assert (gn["batch of 8"], gn["re-estimated"]) == ("-", "-")
    assert gn["running"] == list(found["More than accuracy"].values())[1]["test accuracy (%)"]
    (bn, gn) = found["Mean corruption error"].values()
    assert bn["mean corruption error (%)"].startswith(f"{100 * (1 - 0.7 * accuracies.mean()):.2f}")
    assert bn["adapted (%)"].startswith(f"{100 * (1 - 0.85 * accuracies.mean()):.2f}")
    assert gn["adapted (%)"] == "-"


def test_averaged_weights_stand_beside_the_last_ones_with_statistics_of_either_kind(
    experiment: ExperimentRecord,
) -> None:
    (bn, gn) = grids(experiment)["Averaged weights"].values()
    accuracies = {norm: np.array([evaluation(norm, seed).accuracy for seed in range(3)]) for norm in ("bn", "gn")}

    def text(values: np.ndarray) -> str:
        half = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))[1] - values.mean()
        return f"{100 * values.mean():.2f} ± {100 * half:.2f}"

    assert list(bn.values())[1:] == [text(share * accuracies["bn"]) for share in (1, 0.7, -0.3, 0.9, 0.95, 0.05)]
    assert list(gn.values())[1:] == [*(text(share * accuracies["gn"]) for share in (1, 0.7, -0.3)), "-", "-", "-"]


def test_classes_have_rows_where_they_are_more_than_the_norms(experiment: ExperimentRecord) -> None:
    found = grids(experiment)["Accuracy by class"]
    assert list(found) == ["<b>cat", "dog", "bird"]
    for position, cells in enumerate(found.values()):
        for header, norm in zip(list(cells)[1:], ("bn", "gn"), strict=True):
            values = np.array([evaluation(norm, seed).class_accuracies[position] for seed in range(3)])
            assert cells[header].startswith(f"{100 * values.mean():.1f} ±")


def test_the_chapter_says_where_and_of_what_it_was_measured(experiment: ExperimentRecord) -> None:
    (text,) = next(chapter for chapter in Report(experiment).chapters if chapter.anchor == "evaluation").text
    assert "on 60 test images. Measured on a CPU, torch 2. Averaged weights" in text


def test_norms_are_paired_image_by_image_within_a_seed(experiment: ExperimentRecord) -> None:
    ((_, rows),) = [(title, rows) for title, rows in grids(experiment).items() if title.startswith("Image by")]
    (gn,) = rows.values()
    pairs = []
    for seed in range(3):
        hits = [evaluation(norm, seed).hit_bits.astype(bool) for norm in ("bn", "gn")]
        pairs.append((int((hits[0] & ~hits[1]).sum()), int((~hits[0] & hits[1]).sum())))
    only_bn, only_gn = np.mean(pairs, axis=0)
    assert gn[next(header for header in gn if header.endswith("right") and "norm" not in header)] == f"{only_bn:.0f}"
    assert gn["only the norm right"] == f"{only_gn:.0f}"
    p_values = [stats.binomtest(first, first + second).pvalue for first, second in pairs]
    assert gn["p, median"] in (f"{np.median(p_values):.3f}", "< 0.001")
    assert gn["behind"] == f"{sum(p < 0.05 for p in p_values)}/3"


@pytest.mark.parametrize("pair", [(0, 0), (5, 5), (3, 12), (40, 70), (0, 1)])
def test_mcnemars_test_is_the_binomial_one(pair: tuple[int, int]) -> None:
    expected = stats.binomtest(pair[0], sum(pair)).pvalue if sum(pair) else 1.0
    assert PairedImages(*pair).p == pytest.approx(expected, rel=1e-9)


def test_other_images_are_not_paired(experiment: ExperimentRecord) -> None:
    others = tuple(
        replace(run, environment={**run.environment, "dataset_sha256": "1"}) if run.config.norm.name == "gn" else run
        for run in experiment.runs
    )
    titles = grids(replace(experiment, runs=others))
    assert not any(title.startswith("Image by image") for title in titles)


def test_the_page_has_all_figures_and_escapes_what_a_record_says(experiment: ExperimentRecord) -> None:
    report = Report(experiment)
    assert {"statistics", "confusion", "corruption_severity", "corruption_kinds"} <= {f.name for f in report.figures}
    texts = report_texts(report)
    assert "Robustness to corruptions" in texts["report.md"]
    assert "not the official files" in texts["report.md"]
    assert "<b>cat" not in texts["report.html"]
    assert "&lt;b&gt;cat" in texts["report.html"]


def test_without_an_evaluation_there_is_no_chapter(experiment: ExperimentRecord) -> None:
    plain = replace(experiment, runs=tuple(replace(run, evaluation=None) for run in experiment.runs))
    assert Report(plain).chapters == ()


def test_what_was_not_measured_is_a_dash() -> None:
    assert estimate_text([None, None], 100, 2) == "-"
    assert estimate_text([0.5], 100, 2) == "50.00"
    assert estimate_text([0.5, None], 100, 2) == "50.00 (n=1)"


def test_a_damaged_evaluation_is_told_and_the_other_runs_are_shown(experiment: ExperimentRecord) -> None:
    path: Path = experiment.runs[0].folder / "evaluation.json"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:100])
        found = read_experiment(experiment.folder)
    finally:
        path.write_bytes(content)
    assert len(found.runs) == len(experiment.runs) - 1
    assert "evaluation.json" in found.unreadable[0]
