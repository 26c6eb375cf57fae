"""A comparison table as plain data: a row per configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from normbench.report.batch_one import BatchOne
from normbench.report.epoch_times import Source
from normbench.report.grouping import Fields, Setting
from normbench.report.stats import Estimate, Share, Spread
from normbench.report.verdicts import Comparison
from normbench.runs.record_files import ResultId
from normbench.tasks import Measure, Task

TARGETS = (0.90, 0.94)
"""Accuracies whose time is reported, as CIFAR-10 speed records do."""


@dataclass(frozen=True)
class Result:
    """One measure of one configuration."""

    estimate: Estimate | None
    """The raw measure's mean over seeds; None where no completed run measured it."""
    comparison: Comparison | None
    """Against the baseline of the same setting; None for the baseline itself and where nothing can be compared."""
    rank: tuple[int, int] | None
    """Ranks that the row may hold within its setting, at 95 % joint confidence; None where nothing is ranked."""

    @property
    def is_resolved_best(self) -> bool:
        """Whether this is resolved to be better than all others of its setting, not merely first in the sample."""
        return self.rank == (1, 1)


@dataclass(frozen=True)
class Row:
    """One configuration; what no completed run measured is None."""

    label: str
    norm: str
    fields: Fields
    """The varying fields of the table, by dotted path."""
    setting: Setting
    """Those of them by which rows may be compared with each other: all but the norm's own."""
    results: Mapping[str, Result]
    """The result in each of the task's measures, by the measure's name."""
    epoch_seconds: Spread | None
    """Time of an epoch's training steps: over the rounds of the timing pass, or over the epochs of the runs.

    A run of a task without epochs counts as one epoch."""
    time_source: Source | None
    """Where it comes from: norms timed in turn, or each run by itself."""
    relative_time: float | None
    """Epoch time as a multiple of the baseline's: the ratio of the medians."""
    relative_time_mad: float | None
    """The median distance of a round's own ratio from it; None where single times allow no spread."""
    seconds_to_reach: Mapping[str, float | None]
    """For each of `TARGETS`, the median training time to the first epoch there; None unless every run reached it.

    Where norms were timed in turn, each epoch counts as the median of `epoch_seconds`."""
    num_parameters: int | None
    peak_memory_mib: float | None
    """The largest of the runs."""
    learning_rate: float
    """The rate at which its runs trained."""
    num_completed: int
    num_planned: int
    runs: str
    """``4/5, 1 diverged``: completed of planned, and what became of the rest."""
    is_baseline: bool
    failure_rate: Share | None
    """The share of ended runs that diverged; None where none did."""
    batch_one: BatchOne | None
    """How the norm fares at batch size 1; None where the experiment did not ask."""

    @property
    def is_resolved_best(self) -> bool:
        """Whether this row is resolved to be better than all others of its setting in every measure."""
        return all(result.is_resolved_best for result in self.results.values())


@dataclass(frozen=True)
class Table:
    """Rows that were measured under equal conditions, what the reader must know about them, and what went wrong."""

    title: str
    short_caption: str
    """What the numbers are, in two lines of a terminal."""
    caption: str
    """The estimator, interval and test behind the results, in sentences."""
    cost_caption: str
    """How times and memory were measured, in sentences."""
    task: Task
    varied: tuple[str, ...]
    rows: tuple[Row, ...]
    failures: tuple[str, ...]
    """Each run that ended without a result, with its reason, a line each."""
    notes: tuple[str, ...]
    """Reasons to be careful with the rows, a line each."""
    environment: Mapping[str, str]
    baseline: str | None
    margins: Mapping[str, float]
    """By measure, the difference below which norms count as equivalent: raw, or a share of the baseline's mean."""
    rates: str | None = None
    """Which learning rates the rows have, in words, where an experiment tuned them."""
    identity: ResultId | None = None
    """The id of the experiment's result, which few ways to write a table need."""

    @property
    def result_id(self) -> str | None:
        """The SHA-256 over the records of the experiment."""
        return self.identity.value if self.identity else None

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The numbers that norms are compared by, the most important first."""
        return self.task.measures

    def results(self, measure: Measure) -> list[Result]:
        """Return the results of all rows in one measure."""
        return [row.results[measure.name] for row in self.rows]

    @property
    def tested_measures(self) -> list[Measure]:
        """The measures of which a comparison rests on more than one pair of runs."""
        return [
            measure
            for measure in self.measures
            if any(found.comparison.difference.estimate.n > 1 for found in self.results(measure) if found.comparison)
        ]
