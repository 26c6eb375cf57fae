"""The chapter on why a norm wins: its numbers against NumPy, and that it is there only when something was measured."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from scipy import stats

from normbench.bundle.description import Credit
from normbench.bundle.write import write_bundle
from normbench.cli.show import as_json
from normbench.report.figure_style import add_hover, figure_bytes, figure_style, fix_layout, panels
from normbench.report.html import inline_svg, report_to_html
from normbench.report.markdown import report_to_markdown
from normbench.report.page import Report
from normbench.report.probe_curves import mean_of_training, over_layers, over_training
from normbench.report.why import CURVATURE, LANDSCAPE, LAYERS, SIGNALS, _over_training
from normbench.runs.record_files import experiment_records
from normbench.runs.records import read_experiment, read_run

NewRun = Callable[..., Path]
STEPS = (0, 200, 400)
HOSTILE = '<b>"&'


def add_probes(folder: Path, norm: str, seed: int) -> None:
    """Write three rows of each probe, which differ by norm and seed."""
    rng = np.random.default_rng([sum(map(ord, norm)), seed])
    rows: dict[str, list[dict]] = {"landscape": [], "signals": [], "curvature": []}
    for step in STEPS:
        loss, length = 2.3 - step / 500, float(rng.uniform(1, 3))
        rows["landscape"].append(
            {
                "step": step, "loss": loss, "gradient_norm": length, "weight_norm": 9.0, "step_sizes": [0.1, 0.4],
                "losses": [loss - 0.1, loss + float(rng.uniform(0.1, 1))],
                "gradient_distances": list(rng.uniform(0.5, 2, 2)), "cosines": list(rng.uniform(-1, 1, 2)),
            }
        )  # fmt: skip
        side = {"mean": 0.1, "std": length, "zero_share": 0.5, "dead_share": 0.25}
        norms = [
            {
                "name": f"features.{2 * i + 1}", "before": side, "after": side,
                "stable_rank": float(rng.uniform(1, 9)), "similarity": float(rng.uniform(0, 1)),
                "mean_gap": 0.2 if norm == "bn" else None, "variance_gap": 0.3 if norm == "bn" else None,
            }
            for i in range(4)
        ]  # fmt: skip
        weight = {"weight_norm": 3.0, "effective_learning_rate": 1e-4}
        weights = [{"name": f"w{i}", "gradient_norm": float(rng.uniform(1, 2)), **weight} for i in range(5)]
        rows["signals"].append({"step": step, "norms": norms, "weights": weights})
        rows["curvature"].append(
            {"step": step, "eigenvalue": -length, "iterations": 9, "residual": 0.05, "is_converged": True}
        )
    (folder / "probes").mkdir()
    for name, measured in rows.items():
        (folder / "probes" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in measured))


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory, new_run: NewRun) -> Path:
    folder = tmp_path_factory.mktemp("why") / "why"
    for norm in ("bn", "gn"):
        for seed in range(3):
            label = HOSTILE if norm == "gn" else None
            add_probes(new_run(folder, norm, seed, epochs=2, steps_per_epoch=300, label=label), norm, seed)
    return folder


@pytest.fixture(scope="module")
def report(experiment: Path) -> Report:
    return Report(read_experiment(experiment))


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    """The page with its figures, which take seconds to draw."""
    return report_to_html(report)


def rows_of(report: Report, norm: str, probe: str) -> list[list[dict]]:
    folders = sorted(report.experiment.folder.glob(f"{norm}-*"))
    return [[json.loads(line) for line in (f / f"probes/{probe}.jsonl").read_text().splitlines()] for f in folders]


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over the first axis and half of its 95 % t interval, by SciPy."""
    count = len(values)
    half = stats.t.ppf(0.975, count - 1) * values.std(axis=0, ddof=1) / np.sqrt(count)
    return values.mean(axis=0), half


def test_curves_are_means_with_intervals_over_seeds(report: Report) -> None:
    (panel,) = panels(report.sections)
    bn = panel.groups[0]
    smoothness = over_training(bn, LANDSCAPE[3])
    ratios = [
        [
            max(d / e for d, e in zip(row["gradient_distances"], row["step_sizes"], strict=True)) / row["gradient_norm"]
            for row in run
        ]
        for run in rows_of(report, "bn", "landscape")
    ]
    mean, half = interval(np.log10(ratios))
    assert smoothness.x.tolist() == list(STEPS)
    np.testing.assert_allclose(smoothness.mean, 10**mean)
    np.testing.assert_allclose([smoothness.low, smoothness.high], [10 ** (mean - half), 10 ** (mean + half)])

    rank = over_layers(bn, LAYERS[2])
    mean, half = interval(
        np.array([[norm["stable_rank"] for norm in run[-1]["norms"]] for run in rows_of(report, "bn", "signals")])
    )
    assert rank.x.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose([rank.mean, rank.low, rank.high], [mean, mean - half, mean + half])

    curvature = mean_of_training(bn, CURVATURE[0])
    per_run = np.array(
        [stats.gmean([abs(row["eigenvalue"]) for row in run]) for run in rows_of(report, "bn", "curvature")]
    )
    assert (curvature.mean, curvature.half_width) == pytest.approx(interval(per_run))
    assert over_training(panel.groups[1], SIGNALS[4]) is None, "no running statistics"
    assert over_training(bn, SIGNALS[4]).mean.tolist() == pytest.approx([0.2] * 3)


def test_a_step_at_which_a_run_exploded_is_left_out(experiment: Path, tmp_path: Path, new_run: NewRun) -> None:
    for seed in range(2):
        folder = new_run(tmp_path, "bn", seed, epochs=2, steps_per_epoch=300)
        add_probes(folder, "bn", seed)
    file = folder / "probes" / "landscape.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[1]["gradient_norm"] = "Infinity"
    lines[1]["losses"] = ["NaN", "Infinity"]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = Report(read_experiment(tmp_path))
    assert report.experiment.unreadable == ()
    (panel,) = panels(report.sections)
    assert over_training(panel.groups[0], LANDSCAPE[4]).x.tolist() == [0, 400]
    assert report.chapters


def test_runs_that_were_measured_once_show_that_and_say_so(tmp_path: Path, new_run: NewRun) -> None:
    for norm in ("bn", "gn"):
        for seed in range(2):
            folder = new_run(tmp_path, norm, seed)
            add_probes(folder, norm, seed)
            file = folder / "probes" / "landscape.jsonl"
            file.write_text(file.read_text().splitlines(keepends=True)[0])
    report = Report(read_experiment(tmp_path))
    (chapter,) = report.chapters
    (said,) = [text for text in chapter.text if text.startswith("Measured before")]
    assert ": landscape. A smaller probes.landscape.every" in said  # signals and curvature were measured three times
    (band,) = [figure for figure in chapter.figures if figure.name == "loss_band"]
    (bars,) = [c for c in band.figure.axes[0].collections if isinstance(c, LineCollection)]
    (panel,) = panels(report.sections)
    ends = [run.probe_rows["landscape"][0].loss_range for run in panel.groups[0].completed]
    assert bars.get_segments()[0][:, 1].tolist() == pytest.approx(np.mean(ends, axis=0).tolist())


def test_the_chapter_stands_between_curves_and_cost(report: Report, html: str) -> None:
    (chapter,) = report.chapters
    names = ["loss_band", "landscape", "signals", "signals_training", "curvature"]
    assert [figure.name for figure in chapter.figures] == names
    assert [figure.name for figure in report.figures][-5:] == names
    markdown = report_to_markdown(report)
    titles = re.findall(r'<h2 id="[^"]*">(.*?)</h2>', html)
    assert titles.index("Accuracy against time") + 1 == titles.index("Why: smoothness and signals")
    assert titles.index("Why: smoothness and signals") + 1 == titles.index("Cost")
    headings = re.findall("^## (.*)$", markdown, flags=re.MULTILINE)
    assert headings.index("Why: smoothness and signals") + 1 == headings.index("Cost")
    assert "![Curvature](curvature.png)" in markdown
    assert "3 of 3" not in html
    assert "18 of 18 measurements reached their tolerance" in html
    assert HOSTILE not in html
    (grid,) = chapter.grids
    for header in grid.headers:
        assert header.replace("|", r"\|") in markdown
    assert [row[0] for row in grid.rows] == ["bn", HOSTILE]


def test_many_norms_are_ranked(tmp_path: Path, new_run: NewRun) -> None:
    norms = ["bn", "ln", "in", "gn", "frn", "none", "brn", "sn", "dyt"]
    for norm in norms:
        for seed in range(2):
            add_probes(new_run(tmp_path, norm, seed, epochs=1, steps_per_epoch=30), norm, seed)
    report = Report(read_experiment(tmp_path))
    (panel,) = panels(report.sections)
    figure = _over_training(panel, LANDSCAPE[3:4])
    (axes,) = figure.axes
    means = {group.label: mean_of_training(group, LANDSCAPE[3]).mean for group in panel.groups}
    assert [tick.get_text() for tick in axes.get_yticklabels()] == sorted(norms, key=means.__getitem__)
    places = [container.lines[0].get_xdata()[0] for container in axes.containers]
    assert places == sorted(means.values())

    (signals,) = [entry for entry in report.chapters[0].figures if entry.name == "signals"]  # in the last layer
    ranks = {
        norm: np.mean([[row["norms"][-1]["stable_rank"] for row in run] for run in rows_of(report, norm, "signals")])
        for norm in norms
    }
    axes = signals.figure.axes[2]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == sorted(norms, key=ranks.__getitem__)


def test_without_probes_there_is_no_chapter(tmp_path: Path, new_run: NewRun) -> None:
    new_run(tmp_path, "bn", 0, epochs=1, steps_per_epoch=50)
    assert Report(read_experiment(tmp_path)).chapters == ()


def test_learning_rates_give_the_band_of_the_course_task(tmp_path: Path, new_run: NewRun) -> None:
    for norm in ("bn", "none"):
        for rate in (1e-4, 2e-3):
            new_run(
                tmp_path,
                norm,
                0,
                epochs=2,
                steps_per_epoch=40,
                train={"learning_rate": rate},
                folder_name=f"{norm}{rate}",
            )
    (chapter,) = Report(read_experiment(tmp_path)).chapters
    (figure,) = chapter.figures
    assert (figure.name, figure.title) == ("rate_band", "Training loss over learning rates")
    axes = [axes for axes in figure.figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in axes] == ["bn, n=1", "none, n=1"]
    assert all(axes.collections for axes in axes)


def test_values_under_the_pointer_are_in_the_page_and_nowhere_else(html: str) -> None:
    from matplotlib.figure import Figure

    with figure_style():
        figure = Figure()
        axes = figure.subplots()
        axes.plot([0, 1], [1, 2])
        fix_layout(figure)
    before = [figure_bytes(figure, kind) for kind in ("png", "pdf")]
    add_hover(axes, 0.5, 1.5, f"{HOSTILE} at 0.5: 1.5")
    assert [figure_bytes(figure, kind) for kind in ("png", "pdf")] == before
    svg = inline_svg(figure, "x", "a title")
    assert '<title>&lt;b&gt;"&amp; at 0.5: 1.5</title>' in svg
    assert len(re.findall("<title>bn, training step 400: ", html)) > 5


def test_probes_are_records_and_show_names_them(experiment: Path) -> None:
    (folder,) = experiment.glob("bn-*-s1-*")
    records = {record.name: record.content for record in experiment_records(experiment)}
    for name in ("landscape", "signals", "curvature"):
        file = f"probes/{name}.jsonl"
        assert records[f"{folder.name}/{file}"] == (folder / file).read_bytes()
    shown = as_json(read_run(folder))
    assert shown["probes"]["signals"] == {"num_rows": 3, "first_step": 0, "last_step": 400}
    assert "probes/landscape.jsonl" in shown["files"]


@pytest.mark.slow
def test_a_bundle_carries_probes(experiment: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "why.nbz"
    write_bundle(experiment, bundle, Credit(("Lovelace, Ada",)))
    for run in read_experiment(experiment).runs:
        assert read_run(bundle / "why" / run.run_id).probe_rows == run.probe_rows
    assert Report(read_experiment(bundle / "why")).chapters[0].anchor == "why"
