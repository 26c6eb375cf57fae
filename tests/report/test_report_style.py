"""Style transfer in the report that serves every task, from recorded runs of which every number is known."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import yaml

from normbench.config.style import StyleRunConfig
from normbench.errors import UnknownNameError
from normbench.report import Report, write_report, write_run_report
from normbench.report.comparison_table import Result, Table
from normbench.report.figure_style import panels
from normbench.report.formats import FORMATS, to_csv
from normbench.report.html import report_to_html
from normbench.report.markdown import report_to_markdown
from normbench.report.recorded_runs import load_curves, load_runs
from normbench.report.style_report import contrast_estimates, loss_figure
from normbench.report.tensorboard import write_tensorboard
from normbench.runs.records import State, read_experiment
from normbench.runs.timing_file import TimedNorm, Timing, TimingSession
from normbench.runs.writer import RunFolder
from normbench.tasks.style_transfer import StyleSummary

NUM_STEPS = 200
HALF_WIDTH = 4.302653 * 0.01 / np.sqrt(3)  # t quantile of 2 degrees of freedom; the seeds differ by 0.01
MACHINE = {"device_name": "NVIDIA H100", "torch": "2.11.0", "cuda": "13.0", "precision": "bf16", "engine": "graph"}


def style_run(norm: str, seed: int = 0, **changes: Any) -> StyleRunConfig:
    label = "none" if norm == "none" else norm.upper()
    pictures = {"style": "waves", "content": "cifar10", "image_size": 16, "train": {"steps": NUM_STEPS}}
    return StyleRunConfig.model_validate(
        {"norm": {"name": norm, "label": label}, "seed": seed, "device": "cuda", **pictures, **changes}
    )


def record(folder: Path, config: StyleRunConfig, level: float, state: State = "completed") -> Path:
    """Write a run whose losses all follow from `level`."""
    writer = RunFolder(folder / config.run_id).acquire()
    writer.begin(config)
    writer.write_environment(MACHINE | {"features": f"/cache/{folder.name}/bn-resnet9-bs512-s0-12345678"})
    steps = range(NUM_STEPS if state == "completed" else 40)
    writer.append_steps((level, level * (0.2 + np.exp(-s / 50)), level * (0.1 + np.exp(-s / 30)), 0.1) for s in steps)
    if state == "completed":
        random = np.random.default_rng(0)
        images = random.integers(0, 255, (6, 32, 32, 3), dtype=np.uint8)
        writer.write_samples({"content": images, "stylized": 255 - images, "style": images[0]})
        summary = StyleSummary(
            num_steps=NUM_STEPS,
            num_parameters=1_676_035,
            content_loss=level,
            style_loss=2 * level,
            total_variation=0.1,
            total_loss=1.0,
            train_seconds=3.0 + level,
            startup_seconds=1.5,
            images_per_second=133.3,
            peak_memory_mib=250.0,
            contrast_change={factor: level * (1 - factor) for factor in (0.8, 0.6, 0.4, 0.2)},
        )
        writer.finish(summary, keep_checkpoint=False)
    else:
        writer.set_status(state, "loss is nan at step 40 of 200")
    writer.release()
    return writer.path


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    for seed, shift in enumerate((-0.01, 0.0, 0.01)):
        record(tmp_path, style_run("in", seed), 0.2 + shift)
        record(tmp_path, style_run("bn", seed), 0.5 + 3 * shift)
    record(tmp_path, style_run("none"), 0.9, "diverged")
    norms = [{"name": name, "label": label} for name, label in (("in", "IN"), ("bn", "BN"), ("none", "none"))]
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump({"norms": norms, "seeds": [0, 1, 2]}))
    return tmp_path


def report_of(folder: Path, baseline: str | None = None) -> Report:
    return Report(read_experiment(folder), baseline)


def table_of(folder: Path, baseline: str | None = None) -> Table:
    (table,) = report_of(folder, baseline).tables
    return table


def result_of(table: Table, label: str, measure: str) -> Result:
    (row,) = (row for row in table.rows if row.label == label)
    return row.results[measure]


def test_means_intervals_failures_and_answers_are_said(experiment: Path) -> None:
    table = table_of(experiment)
    assert [(row.label, row.num_completed, row.runs) for row in table.rows] == [
        ("IN", 3, "3/3"),
        ("BN", 3, "3/3"),
        ("none", 0, "0/3, 1 diverged, 2 not started"),
    ]
    content = result_of(table, "IN", "content_loss").estimate
    assert content is not None
    assert (content.mean, content.half_width) == pytest.approx((0.2, HALF_WIDTH))
    assert result_of(table, "none", "style_loss").estimate is None
    (failure,) = table.failures
    assert failure.startswith("none, seed 0 diverged: loss is nan at step 40 of 200 (none-stylenet-s0-")
    (part,) = report_of(experiment).parts
    assert part.unfinished == "3 of 9 runs have no result: 1 diverged, 2 not started."
    assert dict(part.measured)["features"] == "bn-resnet9-bs512-s0-12345678"
    assert (dict(part.measured)["precision"], dict(part.measured)["style"]) == ("bf16", "waves")
    assert part.data == "CIFAR-10 in the style waves"
    assert part.answers[0] == (
        "content loss: under this protocol, with one learning rate for all norms (0.001), IN is lowest with 0.2000 ± "
        "0.0248 (n=3), resolved against the others at a joint confidence of 95 %. Against BN: IN lower."
    )
    assert [answer.partition(":")[0] for answer in part.answers] == [measure.header for measure in table.measures]


def test_measures_that_are_no_number_are_left_out(experiment: Path) -> None:
    """As of runs recorded when a network that broke in its last step was still called completed."""
    folder = experiment / style_run("bn", 1).run_id
    summary = json.loads((folder / "summary.json").read_text())
    broken = summary | {"total_loss": "NaN", "contrast_change": {**summary["contrast_change"], "0.4": None}}
    (folder / "summary.json").write_text(json.dumps(broken))
    table = table_of(experiment)
    for measure in ("total_loss", "contrast_change"):
        assert [result_of(table, label, measure).estimate.n for label in ("IN", "BN")] == [3, 2]
    assert result_of(table, "BN", "content_loss").estimate.n == 3
    assert report_of(experiment).figures


def test_differences_are_paired_by_seed_and_less_is_better(experiment: Path) -> None:
    """IN minus BN is -0.3 less twice the shift: -0.28, -0.30, -0.32."""
    found = result_of(table_of(experiment), "IN", "content_loss")
    assert found.comparison is not None
    difference = found.comparison.difference
    assert difference.estimate.mean == pytest.approx(-0.3)
    assert difference.estimate.half_width == pytest.approx(2 * HALF_WIDTH, rel=1e-5)
    expected = scipy.stats.ttest_1samp([-0.28, -0.30, -0.32], 0).pvalue
    assert difference.t_p == found.comparison.holm_p == pytest.approx(expected)
    assert (found.comparison.verdict, found.rank) == ("better", (1, 1))
    other = result_of(table_of(experiment, "IN"), "BN", "content_loss").comparison
    assert other is not None
    assert other.verdict == "worse"
    with pytest.raises(UnknownNameError, match="unknown baseline norm 'gm'"):
        table_of(experiment, "gm")


def test_equivalent_means_within_a_share_of_the_baselines_mean(tmp_path: Path) -> None:
    for seed in range(6):
        record(tmp_path, style_run("bn", seed), 0.5)
        record(tmp_path, style_run("in", seed), 0.501 + 1e-4 * (-1) ** seed)
    found = result_of(table_of(tmp_path), "IN", "content_loss").comparison
    assert found is not None
    assert found.verdict == "worse", "0.001 is resolved"
    for seed in range(6):
        record(tmp_path / "b", style_run("bn", seed), 0.5)
        record(tmp_path / "b", style_run("gn", seed), 0.5 + 1e-3 * (-1) ** seed)
    table = table_of(tmp_path / "b")
    assert result_of(table, "GN", "content_loss").comparison.verdict == "equivalent"  # type: ignore[union-attr]
    assert "equivalent (±1 %)" in FORMATS["md"]([table])
    assert "equivalent means within ±1 % of the baseline's mean" in table.caption


def test_every_format_has_a_column_a_measure(experiment: Path) -> None:
    table = table_of(experiment)
    for name, write in FORMATS.items():
        text = write([table])
        assert "IN" in text, name
        assert "none" in text, name
    markdown = FORMATS["md"]([table])
    header, _, first, *_ = (line for line in markdown.splitlines() if line.startswith("|"))
    cells = dict(zip((cell.strip() for cell in header.split("|")), (c.strip() for c in first.split("|")), strict=True))
    assert cells["content loss"] == "**0.2000 ± 0.0248**"
    assert cells["change of the output at 40 % contrast (%)"] == f"**12.0 ± {60 * HALF_WIDTH:.1f}**"
    assert cells["training time (s)"].startswith("3.2")
    row = next(csv.DictReader(io.StringIO(to_csv([table]))))
    assert float(row["style_loss"]) == pytest.approx(0.4)
    assert (row["verdict"], row["style_loss_verdict"], row["num_completed"]) == ("better", "better", "3")
    (plain,) = json.loads(FORMATS["json"]([table]))["tables"]
    assert plain["task"] == "style_transfer"
    assert plain["rows"][0]["style_loss"]["mean"] == pytest.approx(0.4)
    assert plain["rows"][0]["style_loss_comparison"]["verdict"] == "better"


def test_the_page_stands_alone_and_says_what_the_markdown_says(experiment: Path) -> None:
    paths = write_report(experiment)
    assert {path.name for path in paths} == {
        *("report.html", "report.md", "table.csv", "table.md", "table.tex", "table_narrow.tex", "table.json"),
        *(f"style_{name}.{kind}" for name in ("losses", "contrast", "pictures") for kind in ("png", "pdf")),
    }
    assert all(path.stat().st_size > 500 for path in paths)
    page = (experiment / "report" / "report.html").read_text()
    assert not re.search(r'src="(?!data:image/png;base64,)', page)
    links = set(re.findall(r'href="([^"]*)"', page))
    assert all(
        link.startswith(("#", "../", "data:image/png;base64,")) or (experiment / "report" / link).is_file()
        for link in links
    ), "nothing afar"
    assert page.count("data:image/png;base64,") >= 9  # the style, four content images, four of IN, four of BN
    assert page.count("<svg ") == 3
    markdown = (experiment / "report" / "report.md").read_text()
    for text in (page, markdown):
        for said in ("0.2000 ± 0.0248", "-0.3000 ± 0.0497", "loss is nan at step 40 of 200", "NVIDIA H100", "bf16"):
            assert said in text
        assert "Tests" in text
        assert text.count("sign-flip p") == 4, "a table of tests a measure"


def test_names_in_the_page_are_text(tmp_path: Path) -> None:
    record(tmp_path, style_run("in", style="<script>alert(1)</script>"), 0.2)
    record(tmp_path, style_run("in", style='waves"onload=x'), 0.2)
    page = report_to_html(report_of(tmp_path))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert 'waves"onload=x"' not in page, "the title of a figure is an attribute"


def test_a_runs_own_pictures(experiment: Path) -> None:
    (run,) = experiment.glob("in-*-s0-*")
    assert [path.name for path in write_run_report(run)] == ["loss_curve.png", "pictures.png", "table.md"]
    assert re.search(r"\| +style loss \| +\| +0.3800 \|", (run / "table.md").read_text())
    (run,) = experiment.glob("none-*")
    assert [path.name for path in write_run_report(run)] == ["loss_curve.png", "table.md"]
    assert "diverged: loss is nan" in (run / "table.md").read_text()


def test_curves_have_a_line_a_norm_and_a_band_where_there_are_seeds(experiment: Path) -> None:
    content, style = loss_figure(panels(report_of(experiment).sections)).axes
    assert (content.get_ylabel(), style.get_ylabel()) == ("content loss (relative)", "style loss (relative)")
    for axes in (content, style):
        assert axes.get_yscale() == "log"
        assert len(axes.collections) == 2  # bands of in and bn
        drawn = [line for line in axes.lines if line.get_visible()]
        assert len(drawn) == 6  # raw and smoothed of in and bn, the diverged run and its end
    smoothed = content.lines[1]
    assert np.asarray(smoothed.get_ydata())[-1] == pytest.approx(0.2 * (0.2 + np.exp(-199 / 50)), rel=0.02)


def test_no_contrast_is_no_change(experiment: Path) -> None:
    changes = contrast_estimates(report_of(experiment).sections[0].groups[0])
    assert list(changes) == [1.0, 0.8, 0.6, 0.4, 0.2]
    assert [estimate.mean for estimate in changes.values()] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])


def test_runs_of_another_setting_are_not_averaged_in(tmp_path: Path) -> None:
    record(tmp_path, style_run("in"), 0.2)
    record(tmp_path, style_run("in", style="mosaic"), 0.6)
    report = report_of(tmp_path)
    (table,) = report.tables
    assert table.varied == ("style",)
    assert [(row.fields["style"], row.num_completed) for row in table.rows] == [("mosaic", 1), ("waves", 1)]
    assert [figure.name for figure in report.figures][:2] == ["style_pictures", "style_pictures_2"]


def test_a_swept_field_is_drawn_for_content_and_style_loss(tmp_path: Path) -> None:
    for batch_size in (4, 16):
        for norm in ("in", "bn"):
            record(tmp_path, style_run(norm, train={"steps": NUM_STEPS, "batch_size": batch_size}), 0.2)
    figures = {figure.name: figure for figure in report_of(tmp_path).figures}
    assert {"batch_size_content_loss", "batch_size_style_loss"} <= figures.keys()
    assert figures["batch_size_style_loss"].figure.axes[0].get_ylabel() == "style loss"


def test_the_feature_network_is_the_same_run_wherever_it_lies_and_another_is_another_table(tmp_path: Path) -> None:
    record(tmp_path, style_run("in"), 0.2)
    moved = record(tmp_path, style_run("bn"), 0.3)
    facts = json.loads((moved / "environment.json").read_text())
    (moved / "environment.json").write_text(json.dumps(facts | {"features": "elsewhere/bn-resnet9-bs512-s0-12345678"}))
    assert len(report_of(tmp_path).tables) == 1
    (moved / "environment.json").write_text(json.dumps(facts | {"features": "elsewhere/another-run"}))
    assert len(report_of(tmp_path).tables) == 2


def test_a_report_without_any_completed_run(tmp_path: Path) -> None:
    record(tmp_path, style_run("none"), 0.9, "diverged")
    report = report_of(tmp_path)
    assert [figure.name for figure in report.figures] == ["style_losses"]
    assert report.parts[0].answers == ("no run has completed.",)
    assert "loss is nan at step 40 of 200" in report_to_html(report)


def test_tasks_in_one_folder_get_a_table_each(experiment: Path, new_run: Any) -> None:
    new_run(experiment, "bn", 0, accuracy=0.75, steps_per_epoch=4)
    report = report_of(experiment)
    assert {table.task.name for table in report.tables} == {"classification", "style_transfer"}
    assert {"accuracy", "style_losses"} <= {figure.name for figure in report.figures}
    rows = list(csv.DictReader(io.StringIO(to_csv(report.tables))))
    assert {row["test_accuracy"] for row in rows} == {"", "0.75"}
    assert report_to_markdown(report).count("## Results: ") == 2


def test_rows_and_curves_for_notebooks(experiment: Path) -> None:
    rows = load_runs(experiment)
    (row,) = (row for row in rows if row["label"] == "IN" and row["seed"] == 1)
    assert (row["task"], row["content_loss"], row["style"]) == ("style_transfer", pytest.approx(0.2), "waves")
    assert row["contrast_change.0.4"] == pytest.approx(0.12)
    assert all(isinstance(value, str | int | float | bool | None) for row in rows for value in row.values())
    curves = load_curves(row)
    assert list(curves["steps"]) == ["step", "total", "content", "style", "total_variation"]
    assert curves["epochs"] == {}
    assert curves["steps"]["step"].tolist() == list(range(1, NUM_STEPS + 1))
    assert curves["steps"]["content"][0] == pytest.approx(0.2 * 1.2)


def test_losses_become_tensorboard_scalars_by_name(experiment: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    report = report_of(experiment)
    folder = write_tensorboard(report)
    found: Any = EventAccumulator(str(folder / report.experiment.runs[0].run_id), size_guidance={"scalars": 0})
    found.Reload()
    names = ("total", "content", "style", "total_variation")
    assert set(found.Tags()["scalars"]) == {f"loss/{name}" for name in names}
    entries = found.Scalars("loss/content")
    assert [entry.step for entry in entries] == list(range(1, NUM_STEPS + 1))
    assert entries[-1].wall_time - entries[0].wall_time == pytest.approx(3.19 * (1 - 1 / NUM_STEPS), abs=0.05)


def test_a_training_takes_its_steps_times_the_time_of_a_step_where_norms_were_timed_in_turn(experiment: Path) -> None:
    timed = tuple(
        TimedNorm(
            label=norm, config=style_run(norm).timing_fields, seconds_per_step=(seconds,) * 3, steps_per_block=9,
            steps_per_epoch=1.0,
        )
        for norm, seconds in (("bn", 0.01), ("in", 0.02))
    )  # fmt: skip
    machine = {"device": "cuda", **MACHINE}
    session = TimingSession(environment=machine, measured_at="2026-01-01", timed=timed)
    (experiment / "timing.json").write_text(Timing(sessions=(session,)).model_dump_json())
    table = table_of(experiment)
    times = {row.label: (row.epoch_seconds and row.epoch_seconds.median, row.relative_time) for row in table.rows}
    assert times == {
        "IN": (pytest.approx(4.0), pytest.approx(2.0)),
        "BN": (pytest.approx(2.0), 1.0),
        "none": (None, None),
    }
    assert table.cost_caption.startswith("Training time: training steps only, norms interleaved in one process")
