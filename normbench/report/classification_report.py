"""The part of a report that is about classifiers: CIFAR-10 in words, curves of loss and accuracy, sweeps of error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from normbench.report.comparison_table import Table
from normbench.report.figure_style import MAX_PANELS, Panel, has_few_lines, panels
from normbench.report.forest import forest
from normbench.report.grouping import Group, Section
from normbench.report.sweeps import sweep_figures
from normbench.report.task_report import PageFigure, TaskReport, describe_images
from normbench.runs.records import RunRecord
from normbench.tasks.classification import TEST_ACCURACY

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEST_ERROR = replace(
    TEST_ACCURACY,
    name="test_error",
    header="test error",
    of=lambda summary: 1 - summary.test_accuracy,
    higher_is_better=False,
)


def _data(section: Section) -> str:
    fields = [group.fields for group in section.groups]
    splits = dict.fromkeys(
        (str(f.get(CLASSIFICATION.images_field)), f.get("dataset.options.eval_split") == "val") for f in fields
    )
    return " and ".join(
        describe_images(name) + (" (validation: training images held out)" if is_held_out else "")
        for name, is_held_out in splits
    )


def _results(section: Section) -> str:
    return (
        f"Test accuracy on {_data(section)} after the last epoch: mean ± half the 95 % Student-t interval over seeds "
        "(a single run has no interval)."
    )


def _figures(found: Sequence[Section], tables: Sequence[Table]) -> list[PageFigure]:
    from normbench.report.curves import accuracy_curves, loss_curves

    shown = panels(found)
    left_out = f" Only the first {MAX_PANELS} of {len(shown)} settings are drawn." if len(shown) > MAX_PANELS else ""
    interval = "Bands and bars are 95 % Student-t intervals of the mean over n completed runs, given in the legend."
    means = "Means over n completed runs, given in the legend; the table has the intervals."
    curves = interval if has_few_lines(shown) else means
    return [
        *sweep_figures(found, TEST_ERROR),
        *forest(found, tables, TEST_ACCURACY),
        *_ranking(shown),
        PageFigure(
            "loss_curves",
            "Training loss",
            f"Training loss by iteration. {curves}{left_out}",
            partial(loss_curves, shown),
        ),
        PageFigure(
            "accuracy",
            "Test accuracy",
            f"Test accuracy by epoch. {interval}{left_out}",
            partial(accuracy_curves, shown),
        ),
        *_over_time(shown, _interleaved_seconds(found, tables), f"{curves}{left_out}"),
    ]


def _over_time(shown: Sequence[Panel], seconds: Sequence[Mapping[str, float]], curves: str) -> list[PageFigure]:
    """Return accuracy against training time; nothing where runs shared their device and were not timed apart."""
    from normbench.report.curves import accuracy_over_time, timed_runs

    is_timed = (
        timed_runs(group, known.get(group.label))
        for panel, known in zip(shown, seconds, strict=True)
        for group in panel.groups
    )
    if not any(is_timed):
        return []
    caption = (
        "Test accuracy after each epoch against training time, evaluation excluded; where norms were timed in turn an "
        f"epoch is as long as in the table. {curves}"
    )
    return [PageFigure("accuracy_time", "Accuracy against time", caption, partial(accuracy_over_time, shown, seconds))]


def _ranking(shown: Sequence[Panel]) -> list[PageFigure]:
    """Return the ranked norms where there are too many for one set of curves."""
    from normbench.report.ranking import ranking

    if has_few_lines(shown):
        return []
    caption = "Test accuracy after the last epoch, best first; bars are 95 % t intervals of the mean over seeds."
    return [PageFigure("ranking", "Norms, ranked", caption, partial(ranking, shown, TEST_ACCURACY), is_sweep=True)]


def _interleaved_seconds(found: Sequence[Section], tables: Sequence[Table]) -> list[dict[str, float]]:
    """Return for every panel, by label, the time per epoch of norms that were timed in turn."""
    return [
        {
            row.label: row.epoch_seconds.median
            for row in table.rows
            if row.setting == groups[0].setting and row.epoch_seconds and row.time_source == "interleaved"
        }
        for section, table in zip(found, tables, strict=True)
        for groups in section.by_setting
    ]


def _run_figures(run: RunRecord) -> Mapping[str, Figure]:
    from normbench.report.curves import loss_curves

    return {"loss_curve": loss_curves([Panel("", (Group.of(run),))])}


CLASSIFICATION = TaskReport(
    time="time per epoch",
    images_field="dataset.name",
    data=_data,
    results=_results,
    figures=_figures,
    run_figures=_run_figures,
)
