"""The report over an experiment before it becomes HTML or Markdown: everything that it says, computed once."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import yaml

from normbench.config.schema import AnalysisConfig
from normbench.errors import shown
from normbench.report.answers import answers, failing_rates, unfinished
from normbench.report.build_table import build_tables
from normbench.report.captions import field_name, format_scalar
from normbench.report.chapters import Chapter, make_chapters
from normbench.report.comparison_table import Table
from normbench.report.grouping import Section, recorded, sections
from normbench.report.per_seed import SeedTable, per_seed
from normbench.report.sweeps import Sensitivity, learning_rate_sensitivities
from normbench.report.task_report import PageFigure, task_report
from normbench.runs.record_files import ResultId
from normbench.runs.records import ExperimentRecord

_OFF = {"train.sync_statistics": False}
"""Config fields that are not worth a line where they have this value."""
_SAID_ELSEWHERE = ("norm.", "dataset.", "device", "probe")
"""Config fields that are no facts of a section: they are in its rows, its images or its environment."""


@dataclass(frozen=True)
class PagePart:
    """One comparison table with its answers and how it was measured."""

    table: Table
    data: str
    """The images, as prose calls them."""
    answers: tuple[str, ...]
    unfinished: str
    """How many runs have no result; empty if all have."""
    measured: tuple[tuple[str, str], ...]
    """Facts that all runs of the table share, by name."""
    seeds: tuple[SeedTable, ...]
    """Each run's own result, a table per measure."""


@dataclass(frozen=True)
class Report:
    """A report over one experiment, of which every part is computed when it is first asked for, and once."""

    experiment: ExperimentRecord
    baseline: str | None = None
    """Label or key of the norm that the others are compared with; the experiment's own where None."""
    margin: float | None = None
    """Raw differences below this count as equivalent, in measures whose own margin is no share of a mean."""
    analysis: AnalysisConfig | None = None
    """How verdicts are given; as the experiment says where None."""

    @property
    def title(self) -> str:
        """The experiment's name."""
        return self.experiment.name

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """The groups of runs, apart where measurements do not mix.

        Raises:
            UnknownNameError: `baseline` is given and no run has that norm.
        """
        return sections(self.experiment, self.baseline)

    @cached_property
    def identity(self) -> ResultId | None:
        """The id of the result, not computed yet; None where a run cannot be read."""
        return None if self.experiment.unreadable else ResultId(self.experiment.folder)

    @property
    def result_id(self) -> str | None:
        """The SHA-256 over all records (`runs.record_files`); None where one cannot be read."""
        return self.identity.value if self.identity else None

    @cached_property
    def commands(self) -> tuple[str, ...]:
        """The commands that made the runs, each once."""
        recorded = (run.environment.get("argv") for section in self.sections for run in section.runs)
        found = [shlex.join(map(str, argv)) for argv in recorded if isinstance(argv, list | tuple)]
        return tuple(dict.fromkeys(shown(command) for command in found))

    @cached_property
    def config(self) -> str:
        """The experiment's settings as YAML, which `normbench compare` takes; empty where they are not recorded."""
        return yaml.safe_dump(dict(self.experiment.settings), sort_keys=False) if self.experiment.settings else ""

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """A comparison table for each section."""
        return build_tables(self.experiment, self.sections, self.margin, self.identity, self.analysis)

    @cached_property
    def parts(self) -> tuple[PagePart, ...]:
        """Each table with what is said about it."""
        return tuple(_part(table, section) for table, section in zip(self.tables, self.sections, strict=True))

    @cached_property
    def sensitivities(self) -> tuple[Sensitivity, ...]:
        """How much each norm minds the learning rate, where one was swept."""
        return tuple(learning_rate_sensitivities(self.sections))

    @cached_property
    def chapters(self) -> tuple[Chapter, ...]:
        """The topics of which something was measured, in the order of the page."""
        return make_chapters(self.experiment, self.sections)

    @cached_property
    def figures(self) -> tuple[PageFigure, ...]:
        """All figures of the page: those of each task, then those of the chapters."""
        return (*self.task_figures, *(figure for chapter in self.chapters for figure in chapter.figures))

    @cached_property
    def task_figures(self) -> tuple[PageFigure, ...]:
        """The figures that each task draws over its sections."""
        by_task: dict[str, list[tuple[Section, Table]]] = {}
        for section, table in zip(self.sections, self.tables, strict=True):
            by_task.setdefault(section.task.name, []).append((section, table))
        return tuple(figure for pairs in by_task.values() for figure in _figures(pairs))


def _part(table: Table, section: Section) -> PagePart:
    return PagePart(
        table=table,
        data=_images(section),
        answers=(*failing_rates(learning_rate_sensitivities([section])), *answers(table)),
        unfinished=unfinished(section),
        measured=tuple(_measured(section).items()),
        seeds=tuple(per_seed(section)),
    )


def _figures(pairs: Sequence[tuple[Section, Table]]) -> list[PageFigure]:
    task = pairs[0][0].task
    return task_report(task).figures([section for section, _ in pairs], [table for _, table in pairs])


def _images(section: Section) -> str:
    return task_report(section.task).data(section).rstrip(",")


def _measured(section: Section) -> dict[str, str]:
    """Return how the section's runs were made, by name: everything that all of them share."""
    runs, first = section.runs, section.groups[0].fields
    found = {
        "images": _images(section),
        "seeds": ", ".join(map(str, sorted({run.config.seed for run in runs}))),
    }
    for path in sorted(first, key=lambda path: not path.startswith("model.")):
        is_said = path.startswith(_SAID_ELSEWHERE) or path in section.varied or first[path] in (None, _OFF.get(path))
        if not is_said:
            found[field_name(path)] = format_scalar(first[path])
    if section.varied:
        found["differs between rows"] = ", ".join(field_name(path) for path in section.varied)
    for key in ("device", *section.task.environment_keys, "engine", "platform", "normbench", "commit"):
        values = sorted({value for run in runs if (value := recorded(run, key)) is not None})
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
