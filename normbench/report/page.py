"""What a report says, before it becomes HTML or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normbench.report.answers import answers, stability, unfinished
from normbench.report.build_table import comparison_tables
from normbench.report.captions import describe_data, field_name, format_scalar
from normbench.report.figure_style import MAX_CLEAR_LINES, MAX_PANELS, panels
from normbench.report.grouping import ENVIRONMENT_KEYS, Section, sections
from normbench.report.sweeps import LEARNING_RATE, Sensitivity, learning_rate_sensitivity, sweeps
from normbench.report.table import Table
from normbench.report.verdicts import MARGIN
from normbench.runs.records import ExperimentRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class PageFigure:
    """A figure with what is said about it; `name` is its file's stem."""

    name: str
    title: str
    caption: str
    figure: Figure
    is_sweep: bool = False
    """Whether it sums up a sweep and so stands before the tables."""


@dataclass(frozen=True)
class PageTable:
    """One comparison table with its answers and how it was measured."""

    table: Table
    data: str
    """The images, as prose calls them."""
    answers: tuple[str, ...]
    unfinished: str
    """How many runs have no result; empty if all have."""
    measured: tuple[tuple[str, str], ...]
    """What all runs of the table share, by name."""


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    tables: tuple[PageTable, ...]
    figures: tuple[PageFigure, ...]
    sensitivities: tuple[Sensitivity, ...]


def make_page(experiment: ExperimentRecord, *, baseline: str | None = None, margin: float = MARGIN) -> Page:
    """Put together all that the experiment's report says and shows.

    Raises:
        UnknownNameError: `baseline` is given and no run has that norm.
    """
    found = sections(experiment, baseline)
    tables = comparison_tables(experiment, baseline=baseline, margin=margin)
    return Page(
        title=experiment.name,
        tables=tuple(_page_table(table, section) for table, section in zip(tables, found, strict=True)),
        figures=tuple(_figures(found, tables)),
        sensitivities=tuple(_sensitivities(found)),
    )


def _sensitivities(found: Sequence[Section]) -> list[Sensitivity]:
    rates = [sweep for sweep in sweeps(found) if sweep.path == LEARNING_RATE]
    return [entry for sweep in rates for entry in learning_rate_sensitivity(sweep)]


def _page_table(table: Table, section: Section) -> PageTable:
    return PageTable(
        table=table,
        data=describe_data(section).rstrip(","),
        answers=(*stability(_sensitivities([section])), *answers(table)),
        unfinished=unfinished(section),
        measured=tuple(_measured(section).items()),
    )


def _figures(found: Sequence[Section], tables: Sequence[Table]) -> list[PageFigure]:
    from normbench.report.curves import accuracy_curves, loss_curves
    from normbench.report.sweeps import sweep_figure
    from normbench.report.time_curves import accuracy_over_time

    shown = panels(found)
    left_out = f" Only the first {MAX_PANELS} of {len(shown)} settings are drawn." if len(shown) > MAX_PANELS else ""
    interval = "Bands and bars are 95 % Student-t intervals of the mean over n completed runs, given in the legend."
    few = all(len(panel.groups) <= MAX_CLEAR_LINES for panel in shown)
    curves = interval if few else "Means over n completed runs, given in the legend; the table has the intervals."
    figures = []
    for sweep in sweeps(found):
        name = field_name(sweep.path)
        title = f"Error against {name}"
        caption = f"Test error after the last epoch, by {name}; one line a norm, set slightly apart. {interval}"
        figures.append(PageFigure(name.replace(" ", "_"), title, caption, sweep_figure(sweep), is_sweep=True))
    figures += [
        PageFigure(
            "loss_curves", "Training loss", f"Training loss by iteration. {curves}{left_out}", loss_curves(shown)
        ),
        PageFigure(
            "accuracy", "Test accuracy", f"Test accuracy by epoch. {interval}{left_out}", accuracy_curves(shown)
        ),
        PageFigure(
            "accuracy_time",
            "Accuracy against time",
            "Test accuracy after each epoch against training time, evaluation excluded; where norms were timed in turn "
            f"an epoch is as long as in the table. {curves}{left_out}",
            accuracy_over_time(shown, _interleaved_seconds(found, tables)),
        ),
    ]
    return figures


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


def _measured(section: Section) -> dict[str, str]:
    """Return how the section's runs were made: what all share, by name."""
    runs, first = section.runs, section.groups[0].fields
    found = {
        "images": describe_data(section).rstrip(","),
        "seeds": ", ".join(map(str, sorted({run.config.seed for run in runs}))),
    }
    for path in sorted(first, key=lambda path: not path.startswith("model.")):
        if path.startswith(("model.", "train.")) and path not in section.varied and first[path] is not None:
            found[field_name(path)] = format_scalar(first[path])
    if section.varied:
        found["differs between rows"] = ", ".join(field_name(path) for path in section.varied)
    for key in ("device", *ENVIRONMENT_KEYS, "engine", "platform", "normbench", "commit"):
        values = sorted({str(run.environment[key]) for run in runs if run.environment.get(key) is not None})
        if values or key in section.environment:
            found[key.replace("_", " ")] = ", ".join(values) or section.environment[key]
    if paths := section.norm_paths:
        several = len(paths) > 1
        found["norm path"] = "; ".join(
            f"{path} ({', '.join(labels)})" if several else path for path, labels in paths.items()
        )
    if "commit" in found and any(run.environment.get("dirty") for run in runs):
        found["commit"] += ", with changes that were not committed"
    days = sorted(time[:10] for run in runs for time in (run.status.started_at, run.status.ended_at) if time)
    found["measured"] = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    return found
