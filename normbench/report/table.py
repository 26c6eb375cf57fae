"""What a comparison table holds: plain data, a row a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from normbench.report.batch_one import BatchOne
from normbench.report.epoch_times import Source
from normbench.report.grouping import Fields, Setting
from normbench.report.stats import Estimate, Spread
from normbench.report.verdicts import Comparison

TARGETS = (0.90, 0.94)
"""Accuracies whose time is reported, as CIFAR-10 speed records do."""


@dataclass(frozen=True)
class Row:
    """One configuration; what no completed run measured is None."""

    label: str
    norm: str
    fields: Fields
    """The varying fields of the table, by dotted path."""
    setting: Setting
    """Those of them by which rows may be compared with each other: all but the norm's own."""
    accuracy: Estimate | None
    """Test accuracy after the last epoch, 0 to 1."""
    epoch_seconds: Spread | None
    """Time of an epoch's training steps: over the rounds of the timing pass, or over the epochs of the runs."""
    time_source: Source | None
    """Where it comes from: norms timed in turn, or each run by itself."""
    relative_time: float | None
    """Epoch time as a multiple of the baseline's: the median over rounds, or the ratio of the runs' medians."""
    seconds_to_reach: Mapping[str, float | None]
    """For each of `TARGETS`, the median training time to the first epoch there; None unless every run reached it.

    Where norms were timed in turn, each epoch counts as the median of `epoch_seconds`."""
    num_parameters: int | None
    peak_memory_mib: float | None
    """The largest of the runs."""
    learning_rate: float
    """At which its runs trained."""
    num_completed: int
    num_planned: int
    runs: str
    """``4/5, 1 diverged``: completed of planned, and what became of the rest."""
    is_baseline: bool
    comparison: Comparison | None
    """Against the baseline of the same setting; None for the baseline itself and where nothing can be compared."""
    rank: tuple[int, int] | None
    """Ranks that the row may hold within its setting, at 95 % joint confidence; None where nothing is ranked."""
    batch_one: BatchOne | None
    """How the norm fares at batch size 1; None where the experiment did not ask."""

    @property
    def is_resolved_best(self) -> bool:
        """Whether this row is resolved to be better than all others of its setting, not merely first in the sample."""
        return self.rank == (1, 1)


@dataclass(frozen=True)
class Table:
    """Rows that were measured under equal conditions, what the reader must know about them, and what went wrong."""

    title: str
    caption: str
    """What the results are: estimator, interval, test."""
    cost_caption: str
    """What times and memory are."""
    varied: tuple[str, ...]
    rows: tuple[Row, ...]
    failures: tuple[str, ...]
    """Each run that ended without a result, with its reason, a line each."""
    notes: tuple[str, ...]
    """What to be careful about, a line each."""
    environment: Mapping[str, str]
    baseline: str | None
    margin: float

    @property
    def has_comparisons(self) -> bool:
        """Whether any row could be compared with the baseline."""
        return any(row.comparison for row in self.rows)

    @property
    def has_tests(self) -> bool:
        """Whether any of the comparisons rests on more than one pair of runs."""
        return any(row.comparison.difference.estimate.n > 1 for row in self.rows if row.comparison)
