"""The report, from recorded files of which every number is known."""

from pathlib import Path

import numpy as np
import pytest
from style_cases import photograph, tiny_run

from normbench.style.config import StyleRunConfig
from normbench.style.events import StepLosses, StyleSteps
from normbench.style.records import Samples, State, StyleSummary, read_style_experiment
from normbench.style.report import contrast_estimates, loss_figure, style_groups, style_table, write_style_report
from normbench.style.run import _Writer

NUM_STEPS = 200


def record(folder: Path, config: StyleRunConfig, level: float, state: State = "completed") -> None:
    path = folder / config.run_id
    path.mkdir(parents=True)
    writer = _Writer(path)
    writer.begin(config)
    steps = NUM_STEPS if state == "completed" else 40
    rows = [
        StepLosses(level, level * (0.2 + np.exp(-s / 50)), level * (0.1 + np.exp(-s / 30)), 0.1) for s in range(steps)
    ]
    writer.append_losses(StyleSteps(0, tuple(rows), NUM_STEPS))
    if state != "completed":
        writer.end(state, "loss is nan at step 40 of 200")
        return
    images = np.stack([photograph(32, 32, seed=seed) for seed in range(6)])
    writer.write_samples(Samples(images, 255 - images, photograph(32, 32, seed=9)))
    changes = {factor: level * (1 - factor) for factor in (0.8, 0.6, 0.4, 0.2)}
    summary = StyleSummary(
        num_steps=steps,
        num_parameters=1_676_035,
        content_loss=level,
        style_loss=2 * level,
        total_variation=0.1,
        total_loss=1.0,
        train_seconds=3.0,
        contrast_change=changes,
    )
    writer.end("completed", summary=summary)


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    for seed, shift in enumerate((-0.01, 0.0, 0.01)):
        record(tmp_path, tiny_run("in", seed), 0.2 + shift)
        record(tmp_path, tiny_run("bn", seed), 0.5 + 3 * shift)
    record(tmp_path, tiny_run("none", 0), 0.9, "diverged")
    return tmp_path


def test_means_intervals_and_failures_are_in_the_table(experiment: Path) -> None:
    groups = style_groups(read_style_experiment(experiment))
    assert [(group.label, len(group.runs), len(group.completed)) for group in groups] == [
        ("IN", 3, 3),
        ("BN", 3, 3),
        ("none", 1, 0),
    ]
    table = style_table(groups)
    half = 4.302653 * 0.01 / np.sqrt(3)  # t quantile of 2 degrees of freedom
    assert (
        f"| IN | 0.2000 ± {half:.4f} | 0.4000 ± {2 * half:.4f} | 12.0 ± {60 * half:.1f} | 1,676,035 | 3.0 | 3/3 |"
        in table
    )
    assert "| none | - | - | - | - | - | 0/1 |" in table
    assert "- none seed 0: diverged: loss is nan at step 40 of 200" in table


def test_no_contrast_is_no_change(experiment: Path) -> None:
    changes = contrast_estimates(style_groups(read_style_experiment(experiment))[0])
    assert list(changes) == [1.0, 0.8, 0.6, 0.4, 0.2]
    assert [estimate.mean for estimate in changes.values()] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])


def test_figures_and_table_are_written(experiment: Path) -> None:
    paths = write_style_report(experiment)
    assert {path.name for path in paths} == {
        "style.md",
        *(f"style_{name}.{kind}" for name in ("losses", "contrast", "pictures") for kind in ("png", "pdf")),
    }
    assert all(path.stat().st_size > 500 for path in paths)


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
    record(tmp_path, tiny_run("in", style="waves"), 0.6)
    assert [group.label for group in style_groups(read_style_experiment(tmp_path))] == ["IN", "IN #2"]


def test_a_report_without_any_completed_run(tmp_path: Path) -> None:
    record(tmp_path, tiny_run("none"), 0.9, "diverged")
    assert {path.name for path in write_style_report(tmp_path)} == {"style.md", "style_losses.png", "style_losses.pdf"}
