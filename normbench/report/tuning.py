"""The chapter on tuned learning rates: what was tried, what was chosen, and what a smaller budget would have found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from normbench.report.chapters import Chapter, Grid
from normbench.report.grouping import Group, Section
from normbench.report.palette import Style
from normbench.report.small_multiples import small_multiples
from normbench.report.task_report import PageFigure
from normbench.runs.records import ExperimentRecord
from normbench.runs.tuning_file import Tuning

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ExpectedBest:
    """The best score among the first b of equally likely trials, for b = 1, 2, ...: mean and standard deviation."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]


def expected_best(scores: Sequence[float]) -> ExpectedBest:
    """Return the expected best of b trials drawn from those that were run (Dodge et al. 2019, arXiv:1909.03004).

    With b draws the best is at most the i-th smallest of N scores with probability ``(i / N) ** b``.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    budgets = np.arange(1, len(ordered) + 1)
    below = (np.arange(len(ordered) + 1) / len(ordered))[:, None] ** budgets
    chances = np.diff(below, axis=0)
    mean = ordered @ chances
    return ExpectedBest(mean, np.sqrt(np.maximum((ordered[:, None] - mean) ** 2 * chances, 0).sum(axis=0)))


def tuning_chapter(experiment: ExperimentRecord, sections: Sequence[Section]) -> Chapter | None:
    """Return the chapter on tuning; None where no learning rate was tuned."""
    tuning = experiment.tuning
    own = next((section for section in sections if section.rates == "each its own"), None)
    if own is None:
        return None
    images = "training images that were held out" if tuning.split == "val" else "the test images, which flatters it"
    num_rates, num_seeds = len(tuning.of(tuning.labels[0])), len(tuning.seeds)
    text = (
        f"Each norm was tried at the same {num_rates} learning rates, with {_counted(num_seeds, 'seed')} each, and its "
        f"own is the one with the best mean accuracy on {images}. It was then trained afresh with other seeds. "
        "A run without a result counts as 0 %.",
    )
    caption = (
        "The best score that a search of so many of these learning rates, drawn at random with replacement, is "
        "expected to find (Dodge et al. 2019); bands are one standard deviation of it."
    )
    figure = PageFigure("tuning_budget", "Expected best against budget", caption, partial(_figure, own, tuning))
    return Chapter("tuning", "Learning rates of their own", text, (figure,), (_grid(tuning),))


def _grid(tuning: Tuning) -> Grid:
    rates = sorted({trial.learning_rate for trial in tuning.trials})
    rows = []
    for label in tuning.labels:
        scores = {trial.learning_rate: trial for trial in tuning.of(label)}
        cells = [f"{100 * scores[rate].score:.2f}" if rate in scores else "-" for rate in rates]
        edge = tuning.at_edge(label)
        rows.append((label, *cells, f"{tuning.chosen[label]:.3g}" + (f" ({edge} tried)" if edge else "")))
    headers = ("norm", *(f"{rate:.3g}" for rate in rates), "chosen")
    return Grid("Mean accuracy (%) by learning rate", headers, tuple(rows))


def _figure(section: Section, tuning: Tuning) -> Figure:
    groups = [group for group in section.groups if tuning.of(group.label)]
    found = {group.label: expected_best([trial.score for trial in tuning.of(group.label)]) for group in groups}
    most = max(len(best.mean) for best in found.values())

    def draw(axes: Axes, group: Group, style: Style) -> None:
        best = found[group.label]
        budgets = np.arange(1, len(best.mean) + 1)
        axes.plot(budgets, 100 * best.mean, color=style.color, marker="o", markersize=2.5)
        low, high = 100 * (best.mean - best.std), 100 * (best.mean + best.std)
        axes.fill_between(budgets, low, high, color=style.color, alpha=0.2, linewidth=0)
        axes.set_xticks(range(1, most + 1))

    def draw_behind(axes: Axes, group: Group, color: str) -> None:
        mean = found[group.label].mean
        axes.plot(np.arange(1, len(mean) + 1), 100 * mean, color=color, linewidth=0.5, zorder=0.5)

    return small_multiples(
        groups,
        draw,
        draw_behind,
        "learning rates tried",
        f"{'held-out' if tuning.split == 'val' else 'test'} accuracy (%)",
        "line: expected best; band: one standard deviation of it",
        num_seeds=len(tuning.seeds),
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
