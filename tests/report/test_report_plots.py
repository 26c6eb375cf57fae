from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from normbench.report.curves import accuracy_curves, finite_part, loss_curves, smooth, smoothing_window, thin_out
from normbench.report.figure_style import (
    DPI,
    MAX_CLEAR_LINES,
    Panel,
    figure_bytes,
    figure_style,
    panels,
    save_figure,
    spread,
)
from normbench.report.grouping import sections
from normbench.report.palette import COLORS, STYLES, style, styles
from normbench.report.ranking import FAMILIES, family, ranking
from normbench.runs.records import read_experiment
from normbench.tasks.classification import TEST_ACCURACY

NewRun = Callable[..., Path]


def panels_of(folder: Path) -> list[Panel]:
    return panels(sections(read_experiment(folder)))


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_every_norm_has_its_own_style() -> None:
    assert len(set(STYLES.values())) == len(STYLES)
    assert {entry.color for entry in STYLES.values()} <= set(COLORS)
    assert len({style(key).color for key in ("bn", "ln", "in", "gn")}) == 4
    assert len({style(key).dash for key in ("bn", "ln", "in", "gn")}) == 4


def test_an_unknown_norm_always_gets_the_same_free_style() -> None:
    assert style("my_norm") == style("my_norm")
    assert style("my_norm") not in STYLES.values()


def test_variants_keep_the_norms_color_and_differ_otherwise() -> None:
    found = styles([("gn", "gn"), ("gn", "gn-8"), ("bn", "bn")])
    first, second = found["gn", "gn"], found["gn", "gn-8"]
    assert first == STYLES["gn"]
    assert first.color == second.color
    assert first.dash != second.dash
    assert first.marker != second.marker


def _lightness_and_hue(color: str, deuteranopia: np.ndarray) -> np.ndarray:
    """CIELAB of an sRGB color as someone without green cones sees it."""
    srgb = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(deuteranopia @ linear, 0, 1)
    rgb_to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = rgb_to_xyz @ seen / np.array([0.9505, 1.0, 1.089])
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


def test_the_tutorials_four_are_far_apart_for_the_color_blind() -> None:
    # Machado, Oliveira & Fernandes 2009, severity 1.0
    deuteranopia = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    protanopia = np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]])
    for matrix in (np.eye(3), deuteranopia, protanopia):
        seen = [_lightness_and_hue(style(key).color, matrix) for key in ("bn", "ln", "in", "gn")]
        distances = [np.linalg.norm(a - b) for index, a in enumerate(seen) for b in seen[:index]]
        assert min(distances) > 12


def test_smoothing_is_a_centered_mean_that_starts_at_the_first_loss() -> None:
    losses = np.random.default_rng(0).normal(size=50)
    smoothed = smooth(losses, 7)
    assert smoothed[0] == pytest.approx(losses[0])
    assert smoothed[1] == pytest.approx(losses[:3].mean())
    assert smoothed[20] == pytest.approx(losses[17:24].mean())
    assert smoothed[-1] == pytest.approx(losses[-4:].mean())
    assert smoothing_window(3910) % 2 == 1
    assert smooth(losses, smoothing_window(5)) == pytest.approx(losses)


def test_thinning_keeps_ends_and_extremes() -> None:
    losses = np.random.default_rng(0).normal(size=20_000)
    steps, kept = thin_out(losses, 1000)
    assert kept.size <= 1002
    assert (kept.min(), kept.max()) == (losses.min(), losses.max())
    assert (steps[0], steps[-1]) == (1, losses.size)
    assert np.array_equal(kept, losses[steps.astype(int) - 1])
    assert finite_part(np.array([1.0, 2.0, np.inf, 3.0])).tolist() == [1.0, 2.0]


def test_loss_figure_draws_the_mean_of_the_seeds_and_says_what_it_shows(tutorial: Path) -> None:
    figure = loss_curves(panels_of(tutorial))
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("iteration", "training loss (nats)")
    assert legend_texts(figure) == ["bn, n=3", "ln, n=3", "in, n=3", "gn, n=3"]
    assert "95 % t interval" in figure.legends[0].get_title().get_text()
    runs = [run.total_losses for run in read_experiment(tutorial).runs if run.config.norm.name == "gn"]
    expected = np.mean([smooth(losses, smoothing_window(losses.size)) for losses in runs], axis=0)
    thick = next(
        line
        for line in axes.lines
        if to_hex(line.get_color()).upper() == style("gn").color and line.get_linewidth() > 1
    )
    steps, drawn = np.asarray(thick.get_xdata()), np.asarray(thick.get_ydata())
    assert drawn == pytest.approx(expected[steps.astype(int) - 1])
    assert len(axes.collections) == 4  # a band each


def test_a_diverged_run_ends_in_a_cross_within_the_axes(tmp_path: Path, new_run: NewRun) -> None:
    for seed in range(2):
        new_run(tmp_path, "bn", seed)
    new_run(tmp_path, "ln", 0, state="diverged", reason="nan", diverge_at=1500)
    figure = loss_curves(panels_of(tmp_path))
    (axes,) = figure.axes
    (cross,) = (line for line in axes.lines if line.get_marker() == "x")
    assert float(np.asarray(cross.get_xdata())[0]) == 1499  # its last finite loss
    assert float(np.asarray(cross.get_ydata())[0]) <= axes.get_ylim()[1] < 3
    assert legend_texts(figure) == ["bn, n=2", "ln, n=0, 1 diverged", "diverged there"]


def test_accuracy_figure_draws_means_in_percent_by_epoch(tmp_path: Path, new_run: NewRun) -> None:
    for seed in range(3):
        new_run(tmp_path, "bn", seed, epochs=4, steps_per_epoch=5)
    (axes,) = accuracy_curves(panels_of(tmp_path)).axes
    runs = read_experiment(tmp_path).runs
    expected = 100 * np.mean([[epoch.test_accuracy for epoch in run.epochs] for run in runs], axis=0)
    assert np.asarray(axes.lines[0].get_ydata()) == pytest.approx(expected)
    assert axes.get_xticks().tolist() == [1, 2, 3, 4]
    assert axes.get_ylabel() == "test accuracy (%)"


def test_settings_get_panels_of_their_own(tmp_path: Path, new_run: NewRun) -> None:
    for batch_size in (128, 16):
        for norm in ("bn", "gn"):
            new_run(tmp_path, norm, 0, steps_per_epoch=40, train={"batch_size": batch_size})
    figure = loss_curves(panels_of(tmp_path))
    assert [axes.get_title() for axes in figure.axes] == ["batch size 16", "batch size 128"]
    assert legend_texts(figure) == ["bn, n=1", "gn, n=1"]


@pytest.mark.parametrize("draw", [loss_curves, accuracy_curves])
@pytest.mark.parametrize("count", [10, pytest.param(30, marks=pytest.mark.slow)])
def test_many_norms_and_nothing_at_all_can_be_drawn(
    tmp_path: Path, new_run: NewRun, count: int, draw: Callable[[list[Panel]], Figure]
) -> None:
    norms = ["derf", *(norm for norm in STYLES if norm != "derf")][:count]
    for norm in norms:
        for seed in range(2):
            new_run(tmp_path / "many", norm, seed, steps_per_epoch=10)
    new_run(tmp_path / "none", "bn", 0, state="running", epochs_done=0)
    new_run(tmp_path / "many", "derf", 7, state="diverged", diverge_at=12, steps_per_epoch=10)
    many = draw(panels_of(tmp_path / "many"))
    titles = [axes.get_title() for axes in many.axes]
    assert len(titles) == count > MAX_CLEAR_LINES, "each norm has axes of its own"
    assert sorted(title.partition(",")[0] for title in titles) == sorted(norms)
    assert "derf, n=2, 1 diverged" in titles
    assert "gray: the other norms" in many.get_suptitle()
    assert "cross: diverged there" in many.get_suptitle()
    assert len({axes.get_ylim() for axes in many.axes}) == 1
    figure = draw(panels_of(tmp_path / "none"))
    assert [text.get_text() for text in figure.axes[0].texts] == ["nothing recorded"]
    assert figure_bytes(draw([]), "png")


def test_files_depend_on_nothing_but_their_content(tmp_path: Path, new_run: NewRun) -> None:
    new_run(tmp_path / "x", "bn", 0, steps_per_epoch=10)
    shown = panels_of(tmp_path / "x")
    for kind in ("png", "pdf", "svg"):
        assert figure_bytes(loss_curves(shown), kind) == figure_bytes(loss_curves(shown), kind)
    paths = save_figure(loss_curves(shown), tmp_path / "loss")
    assert [path.name for path in paths] == ["loss.png", "loss.pdf"]
    assert b"/Type3" not in paths[1].read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_a_file_has_the_bytes_that_matplotlib_saves_where_it_lays_the_figure_out_itself(
    tmp_path: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_run(tmp_path, "bn", 0, steps_per_epoch=10)
    monkeypatch.setattr("normbench.report.figure_style.fix_layout", lambda figure: figure)
    left = loss_curves(panels_of(tmp_path))
    monkeypatch.undo()
    buffer = BytesIO()
    with figure_style():
        left.draw_without_rendering()
        left.set_layout_engine("none")
        left.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    assert figure_bytes(loss_curves(panels_of(tmp_path)), "png") == buffer.getvalue()


def test_no_global_state_is_touched(tmp_path: Path, new_run: NewRun) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    new_run(tmp_path, "bn", 0, steps_per_epoch=10)
    figure_bytes(loss_curves(panels_of(tmp_path)), "png")
    assert dict(matplotlib.rcParams) == before


def test_figures_say_what_was_trained(tmp_path: Path, new_run: NewRun) -> None:
    for seed in range(2):
        new_run(tmp_path, "bn", seed, steps_per_epoch=10, dataset="synthetic", train={"batch_size": 16})
    figure = accuracy_curves(panels_of(tmp_path))
    expected = "synthetic images, not CIFAR-10, norm_resnet, 5 epochs at batch size 16, n = 2 seeds"
    assert figure.get_suptitle() == expected


def test_a_line_ends_in_its_norm_and_its_result(tmp_path: Path, new_run: NewRun) -> None:
    for norm, accuracy in (("bn", 0.9421), ("gn", 0.9420), ("ln", 0.9257)):
        new_run(tmp_path, norm, 0, accuracy=accuracy, steps_per_epoch=10)
    axes = accuracy_curves(panels_of(tmp_path)).axes[0]
    texts = sorted(axes.texts, key=lambda text: -text.get_position()[1])
    assert [text.get_text() for text in texts] == ["bn 94.21", "gn 94.20", "ln 92.57"]
    places = [text.get_position()[1] for text in texts]
    assert places[0] - places[1] > 0.03, "they do not write over each other"


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([], []),
        ([0.2, 0.9], [0.2, 0.9]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.5, 0.52, 0.9], [0.46, 0.56, 0.9]),
        ([0.5, 0.5, 0.58], [0.4267, 0.5267, 0.6267]),
    ],
)
def test_labels_that_would_touch_are_spread_around_their_mean(places: list[float], expected: list[float]) -> None:
    assert spread(places, 0.1) == pytest.approx(expected, abs=1e-4)


def test_norms_are_ranked_by_their_mean_with_their_family(tmp_path: Path, new_run: NewRun) -> None:
    for norm, accuracy in (("gn", 0.7), ("bn", 0.9), ("dyt", 0.8), ("my_norm", 0.5)):
        for seed in range(3):
            new_run(tmp_path, norm, seed, accuracy=accuracy + 0.001 * seed, steps_per_epoch=10)
    new_run(tmp_path, "frn", 0, state="diverged", diverge_at=5, steps_per_epoch=10)
    figure = ranking(panels_of(tmp_path), TEST_ACCURACY)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["bn", "dyt", "gn", "my_norm", "frn (1 diverged)"]
    assert axes.yaxis_inverted(), "the best stands at the top"
    means = [container.lines[0].get_xdata()[0] for container in axes.containers]
    assert means == pytest.approx([90.1, 80.1, 70.1, 50.1])
    markers = [container.lines[0].get_marker() for container in axes.containers]
    assert markers == [FAMILIES[family(norm)][1] for norm in ("bn", "dyt", "gn", "my_norm")]
    families = [family(norm) for norm in ("bn+ws", "dyt", "gn", "my_norm")]
    assert families == list(dict.fromkeys(families)), "four families"
