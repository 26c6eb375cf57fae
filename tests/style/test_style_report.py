"""The report, from recorded files of which every number is known."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from normbench.style.config import StyleRunConfig, load_style_config
from normbench.style.events import StepLosses
from normbench.style.records import Samples, StyleSummary, read_style_experiment
from normbench.style.run import StyleFolder
from style_cases import TINY, photograph, tiny_run

from normbench.errors import UnknownNameError
from normbench.runs.records import State
from normbench.runs.writer import write_experiment
from normbench.style.figures import loss_figure
from normbench.style.groups import contrast_estimates, style_groups
from normbench.style.page import StylePage, make_style_page, measure_groups
from normbench.style.report import write_style_report, write_style_run_report

NUM_STEPS = 200


def record(folder: Path, config: StyleRunConfig, level: float, state: State = "completed") -> None:
    writer = StyleFolder(folder / config.run_id).acquire()
    writer.begin(config)
    writer.write_environment({"device_name": "NVIDIA H100", "torch": "2.11.0", "precision": "bf16", "engine": "graph"})
    steps = NUM_STEPS if state == "completed" else 40
    rows = [
        StepLosses(level, level * (0.2 + np.exp(-s / 50)), level * (0.1 + np.exp(-s / 30)), 0.1) for s in range(steps)
    ]
    writer.append_losses(rows)
    if state == "completed":
        images = np.stack([photograph(32, 32, seed=seed) for seed in range(6)])
        writer.write_samples(Samples(images, 255 - images, photograph(32, 32, seed=9)))
        (folder / config.run_id / "model.pt").touch()
        changes = {factor: level * (1 - factor) for factor in (0.8, 0.6, 0.4, 0.2)}
        summary = StyleSummary(
            num_steps=steps,
            num_parameters=1_676_035,
            content_loss=level,
            style_loss=2 * level,
            total_variation=0.1,
            total_loss=1.0,
            train_seconds=3.0,
            startup_seconds=1.5,
            images_per_second=133.3,
            peak_memory_mib=250.0,
            contrast_change=changes,
        )
        writer.finish(summary, keep_checkpoint=False)
    else:
        writer.set_status(state, "loss is nan at step 40 of 200")
    writer.release()


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    for seed, shift in enumerate((-0.01, 0.0, 0.01)):
        record(tmp_path, tiny_run("in", seed), 0.2 + shift)
        record(tmp_path, tiny_run("bn", seed), 0.5 + 3 * shift)
    record(tmp_path, tiny_run("none", 0), 0.9, "diverged")
    settings = load_style_config(None, flags={"norms": ["in", "bn", "none"], "seeds": 3, **TINY})
    write_experiment(tmp_path, settings)
    return tmp_path


def page_of(folder: Path) -> StylePage:
    return make_style_page(read_style_experiment(folder))


def test_means_intervals_and_failures_are_said(experiment: Path) -> None:
    groups = style_groups(read_style_experiment(experiment))
    assert [(group.label, len(group.runs), len(group.completed), group.num_planned) for group in groups] == [
        ("IN", 3, 3, 3),
        ("BN", 3, 3, 3),
        ("none", 1, 0, 3),
    ]
    page = page_of(experiment)
    half = 4.302653 * 0.01 / np.sqrt(3)  # t quantile of 2 degrees of freedom
    losses = (f"0.2000 ± {half:.4f}", f"0.4000 ± {2 * half:.4f}", "1.0000 ± 0.0000")
    assert page.results.rows[0] == ("IN", *losses, f"12.0 ± {60 * half:.1f}", "3/3")
    assert page.results.rows[2] == ("none", "-", "-", "-", "-", "0/3, 1 diverged, 2 not started")
    assert page.unfinished == "3 of 9 runs have no result."
    (failure,) = page.failures
    assert failure.startswith("none, seed 0 diverged: loss is nan at step 40 of 200 (none-stylenet-s0-")
    assert ("precision", "bf16") in page.measured
    assert "Content loss: IN has the lowest mean, 0.2000" in page.answers[0]
    assert "resolved against the others" in page.answers[0]
    assert page.answers[0].endswith("Against BN: IN lower.")


def test_differences_are_paired_by_seed_and_tested(experiment: Path) -> None:
    """IN minus BN is -0.3 less twice the shift: -0.28, -0.30, -0.32."""
    found = measure_groups(style_groups(read_style_experiment(experiment)), "bn")
    content = next(entry for entry in found if (entry.group.label, entry.measure.name) == ("IN", "content_loss"))
    assert content.comparison is not None
    difference = content.comparison.difference
    assert difference.estimate.mean == pytest.approx(-0.3)
    assert difference.estimate.half_width == pytest.approx(4.302653 * 0.02 / np.sqrt(3), rel=1e-5)
    expected = scipy.stats.ttest_1samp([-0.28, -0.30, -0.32], 0).pvalue
    assert difference.t_p == content.comparison.holm_p == pytest.approx(expected)
    assert content.verdict == "lower"
    row = next(row for row in page_of(experiment).tests.rows if row[:2] == ("content loss", "IN"))
    assert row[2:4] == ("-0.3000 ± 0.0497", "3")
    assert (row[-2], row[-1]) == ("0.250", "lower")  # with three pairs the sign-flip test goes no lower
    with pytest.raises(UnknownNameError, match="unknown baseline norm 'gm'"):
        make_style_page(read_style_experiment(experiment), baseline="gm")
    assert page_of(experiment).results.headers[0] == "norm"
    other = make_style_page(read_style_experiment(experiment), baseline="IN")
    assert other.tests is not None
    assert {row[1] for row in other.tests.rows} == {"BN"}


def test_no_contrast_is_no_change(experiment: Path) -> None:
    changes = contrast_estimates(style_groups(read_style_experiment(experiment))[0])
    assert list(changes) == [1.0, 0.8, 0.6, 0.4, 0.2]
    assert [estimate.mean for estimate in changes.values()] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])


def test_the_page_stands_alone_and_says_what_the_markdown_says(experiment: Path) -> None:
    paths = write_style_report(experiment)
    assert {path.name for path in paths} == {
        *("report.html", "report.md", "table.csv"),
        *(f"style_{name}.{kind}" for name in ("losses", "contrast", "pictures") for kind in ("png", "pdf")),
    }
    assert all(path.stat().st_size > 500 for path in paths)
    page = (experiment / "report" / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?!#|data:image/png;base64,)', page)
    assert page.count("data:image/png;base64,") >= 9  # the style, four content images, four of IN, four of BN
    assert page.count("<svg ") == 3
    markdown = (experiment / "report" / "report.md").read_text()
    for text in (page, markdown):
        for said in ("0.2000 ± 0.0248", "-0.3000 ± 0.0497", "loss is nan at step 40 of 200", "NVIDIA H100", "bf16"):
            assert said in text
    rows = list(csv.DictReader((experiment / "report" / "table.csv").read_text().splitlines()))
    (row,) = [row for row in rows if row["measure"] == "style_loss" and row["label"] == "IN"]
    assert float(row["mean"]) == pytest.approx(0.4)
    assert (row["num_completed"], row["verdict"]) == ("3", "lower")


def test_names_in_the_page_are_text(tmp_path: Path) -> None:
    record(tmp_path, tiny_run("in", style="<script>alert(1)</script>"), 0.2)
    write_style_report(tmp_path)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_runs_own_pictures(experiment: Path) -> None:
    (run,) = experiment.glob("in-*-s0-*")
    assert {path.name for path in write_style_run_report(run)} == {"loss_curve.png", "pictures.png"}
    (run,) = experiment.glob("none-*")
    assert [path.name for path in write_style_run_report(run)] == ["loss_curve.png"]


def test_curves_have_a_line_a_norm_and_a_band_where_there_are_seeds(experiment: Path) -> None:
    figure = loss_figure(style_groups(read_style_experiment(experiment)))
    content, style = figure.axes
    assert content.get_ylabel() == "content loss (relative)"
    assert style.get_ylabel() == "style loss (relative)"
    for axes in (content, style):
        assert len(axes.collections) == 2  # bands of in and bn
        assert len(axes.lines) == 4  # in, bn, the diverged run and its end
    line = content.lines[0]
    assert line.get_ydata()[-1] == pytest.approx(0.2 * (0.2 + np.exp(-199 / 50)), rel=0.02)


def test_runs_of_another_setting_are_not_averaged_in(tmp_path: Path) -> None:
    record(tmp_path, tiny_run("in"), 0.2)
    record(tmp_path, tiny_run("in", style="mosaic"), 0.6)
    assert {group.label for group in style_groups(read_style_experiment(tmp_path))} == {
        "IN (style mosaic)",
        "IN (style waves)",
    }


def test_a_report_without_any_completed_run(tmp_path: Path) -> None:
    record(tmp_path, tiny_run("none"), 0.9, "diverged")
    assert {path.name for path in write_style_report(tmp_path)} == {
        *("report.html", "report.md", "table.csv", "style_losses.png", "style_losses.pdf")
    }
    assert page_of(tmp_path).answers == ("No run has completed.",)
