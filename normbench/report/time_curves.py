"""Accuracy against training time: what a second of training buys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from normbench.report.figure_style import (
    MAX_CLEAR_LINES,
    Panel,
    add_legend,
    figure_style,
    line_style,
    new_figure,
    panel_styles,
    settle,
)
from normbench.report.stats import mean_band

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def accuracy_over_time(shown: Sequence[Panel], epoch_seconds: Sequence[Mapping[str, float]]) -> Figure:
    """Draw mean test accuracy after each epoch against the mean training time until then, evaluation excluded.

    `epoch_seconds` gives for each panel, by label, how long an epoch takes; the runs themselves for those without.
    """
    with figure_style():
        figure, all_axes = new_figure(shown)
        chosen = panel_styles(shown)
        few = all(len(panel.groups) <= MAX_CLEAR_LINES for panel in shown)
        for axes, panel, known in zip(all_axes, shown, epoch_seconds, strict=False):
            for group in panel.groups:
                length = min((len(run.epochs) for run in group.completed), default=0)
                if not length:
                    continue
                timed = known.get(group.label)
                seconds = np.array([[timed or e.train_seconds for e in run.epochs[:length]] for run in group.completed])
                accuracy = np.array([[100 * e.test_accuracy for e in run.epochs[:length]] for run in group.completed])
                elapsed = seconds.cumsum(axis=1).mean(axis=0)
                mean, half_width = mean_band(accuracy)
                style = chosen[group.norm, group.label]
                axes.errorbar(
                    elapsed,
                    mean,
                    yerr=half_width if few else None,
                    color=style.color,
                    linestyle=line_style(style),
                    marker=style.marker,
                    markevery=max(1, length // 12),
                    errorevery=max(1, length // 12),
                    elinewidth=0.8,
                    capsize=2,
                )
            axes.set_xlabel("training time (s)")
            place = axes.get_subplotspec()
            if place is None or place.is_first_col():
                axes.set_ylabel("test accuracy (%)")
        several = any(len(group.completed) > 1 for panel in shown for group in panel.groups)
        bars = ["bar: 95 % t interval over n seeds" if several else "one seed: no interval"]
        add_legend(figure, shown, ["line: mean over seeds after each epoch", *(bars if few else ())])
        return settle(figure)
