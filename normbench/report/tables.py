"""The comparison table: one row a configuration, plain data; formats.py writes it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from normbench.records import ExperimentRecord, RunRecord
from normbench.report.batch_one import COLLAPSED_BELOW, STABLE_FROM, BatchOne, BatchOneProbe, batch_one_probe
from normbench.report.groups import Fields, Group, Scalar, Section, Setting, sections
from normbench.report.paired import MARGIN, MIN_SEEDS, Comparison, compare_to_baseline, rank_ranges
from normbench.report.stats import Estimate, Spread, median_and_mad, summarize

DRIFT = 0.10
"""Epoch times that differ from their run's median by more than this share are pointed out."""

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
    """Training time of an epoch, over runs and epochs, the first epoch left out where there are others."""
    relative_time: float | None
    """Median epoch time as a multiple of the baseline's."""
    seconds_to_reach: Mapping[str, float | None]
    """For each of `TARGETS`, the median training time to the first epoch there; None unless every run reached it."""
    num_parameters: int | None
    peak_memory_mib: float | None
    """The largest of the runs."""
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


def comparison_tables(
    experiment: ExperimentRecord, *, baseline: str | None = None, margin: float = MARGIN
) -> tuple[Table, ...]:
    """Return the experiment's table; several where devices, versions or precisions differ, because those do not mix.

    Raises:
        UnknownNameError: `baseline` is given and no run has that norm.
    """
    found = sections(experiment, baseline)
    return tuple(_table(experiment, section, len(found), margin) for section in found)


def _table(experiment: ExperimentRecord, section: Section, num_sections: int, margin: float) -> Table:
    probe = batch_one_probe(experiment, section)
    rows = [row for groups in section.by_setting for row in _rows(groups, section, margin, probe)]
    title = experiment.name
    if num_sections > 1:
        title += f" ({describe_environment(section.environment)})"
    return Table(
        title=title,
        caption=_caption(section, rows, num_sections, margin) + (f" {_probe_caption(probe)}" if probe else ""),
        cost_caption=_cost_caption(section),
        varied=section.varied,
        rows=tuple(rows),
        failures=tuple(_failure(group, run) for group in section.groups for run in group.runs if _is_failure(run)),
        notes=tuple(_notes(section)),
        environment=section.environment,
        baseline=section.baseline,
        margin=margin,
    )


def _rows(groups: tuple[Group, ...], section: Section, margin: float, probe: BatchOneProbe | None) -> list[Row]:
    """Return the rows of one setting, compared with each other."""
    scores = {group.label: group.accuracies for group in groups}
    times = {group.label: median_and_mad(_epoch_seconds(group)) for group in groups}
    can_rank = sum(len(by_seed) >= MIN_SEEDS for by_seed in scores.values()) > 1
    ranks = rank_ranges(scores) if can_rank else {}
    comparisons: dict[str, Comparison] = {}
    if section.baseline in scores:
        others = {label: by_seed for label, by_seed in scores.items() if label != section.baseline}
        comparisons = compare_to_baseline(others, scores[section.baseline], margin)
    reference = times.get(section.baseline) if section.baseline is not None else None
    rows = []
    for group in groups:
        summaries = [run.summary for run in group.completed if run.summary is not None]
        time = times[group.label]
        memory = [summary.peak_memory_mib for summary in summaries if summary.peak_memory_mib is not None]
        rows.append(
            Row(
                label=group.label,
                norm=group.norm,
                fields={path: group.fields.get(path) for path in section.varied},
                accuracy=summarize(list(scores[group.label].values())),
                epoch_seconds=time,
                setting=group.setting,
                seconds_to_reach={f"{target:.2f}": _time_to(group, target) for target in TARGETS},
                relative_time=time.median / reference.median if time and reference and reference.median else None,
                num_parameters=summaries[0].num_parameters if summaries else None,
                peak_memory_mib=max(memory, default=None),
                num_completed=len(summaries),
                num_planned=group.num_planned,
                runs=group.count_text,
                is_baseline=group.label == section.baseline,
                comparison=comparisons.get(group.label),
                rank=ranks.get(group.label),
                batch_one=probe.of(group.runs[0].config.norm) if probe else None,
            )
        )
    return rows


def _epoch_seconds(group: Group) -> list[float]:
    """Return the training seconds of the completed runs' epochs, first ones left out where there are others."""
    return [epoch.train_seconds for run in group.completed for epoch in run.epochs[1 if len(run.epochs) > 1 else 0 :]]


def seconds_to_reach(run: RunRecord, target: float) -> float | None:
    """Return the training time, evaluation excluded, up to the end of the first epoch with that test accuracy."""
    seconds = 0.0
    for epoch in run.epochs:
        seconds += epoch.train_seconds
        if epoch.test_accuracy >= target:
            return seconds
    return None


def _time_to(group: Group, target: float) -> float | None:
    """Return the median over the completed runs; None unless all of them reached the target."""
    times = [seconds_to_reach(run, target) for run in group.completed]
    reached = [seconds for seconds in times if seconds is not None]
    return float(median(reached)) if reached and len(reached) == len(times) else None


def _caption(section: Section, rows: list[Row], num_sections: int, margin: float) -> str:
    """Say what the numbers are."""
    sentences = [
        f"Test accuracy on {describe_data(section)} after the last epoch: mean ± half the 95 % Student-t interval "
        "over seeds (a single run has no interval)."
    ]
    within = " within its setting" if len(section.by_setting) > 1 else ""
    if any(row.comparison for row in rows):
        sentences.append(
            f"Difference: to {section.baseline}{within}, paired by seed, in points, with its 95 % t interval. Verdict: "
            f"Holm-adjusted paired t test at 5 %, from {MIN_SEEDS} seeds on; equivalent means within "
            f"±{100 * margin:g} points."
        )
    if any(row.rank for row in rows):
        sentences.append(f"Rank: the places that a norm may hold{within}, at a joint confidence of 95 %.")
    sentences.append("Runs: completed of planned; only completed runs enter the numbers.")
    if num_sections > 1:
        sentences.append(
            f"This is one of {num_sections} tables: runs from different devices, versions or precisions are not mixed."
        )
    return " ".join(sentences)


def _probe_caption(probe: BatchOneProbe) -> str:
    """Say what the column on batch size 1 is."""
    sentences = [
        f"At batch size 1: test accuracy after {probe.num_steps:,} steps on one image each at learning rate "
        f"{probe.learning_rate:.3g}, in evaluation mode and with the statistics of each test image alone."
    ]
    if probe.best_accuracy is not None:
        sentences.append(
            f"Stable: at least {100 * STABLE_FROM:g} % of the best norm's gain over chance there ({probe.best_label}, "
            f"{100 * probe.best_accuracy:.1f} %); collapsed: less than {100 * COLLAPSED_BELOW:g} %, or a diverged run; "
            "degraded: between."
        )
    if probe.accuracy_without_norm is not None:
        sentences.append(f"Without a norm: {100 * probe.accuracy_without_norm.mean:.1f} %.")
    return " ".join(sentences)


def _cost_caption(section: Section) -> str:
    """Say what the costs are."""
    later = ", first epoch left out" if any(len(run.epochs) > 1 for run in section.runs) else ""
    reached = "; time to an accuracy: median over runs, if all reached it" if _reached(section) else ""
    return (
        f"Time per epoch: training steps only, median ± median absolute deviation over runs and epochs{later}{reached}."
        " Peak memory: the largest of the runs."
    )


def _reached(section: Section) -> bool:
    return any(_time_to(group, target) is not None for group in section.groups for target in TARGETS)


def describe_data(section: Section) -> str:
    """Return how the section's images are called in prose; synthetic ones never pass for photographs."""
    prose = {"cifar10": "CIFAR-10", "synthetic": "synthetic images, not CIFAR-10,"}
    fields = [group.fields for group in section.groups]
    splits = dict.fromkeys((str(f.get("dataset.name")), f.get("dataset.options.eval_split") == "val") for f in fields)
    return " and ".join(
        prose.get(name, name) + (" (validation: training images held out)" if is_held_out else "")
        for name, is_held_out in splits
    )


def _notes(section: Section) -> list[str]:
    """Say what to be careful about, a line each."""
    notes = []
    for group in section.groups:
        if drifting := [run for run in group.completed if _drifts(run)]:
            seeds = ", ".join(str(run.config.seed) for run in drifting)
            notes.append(
                f"{group.label}: epoch times of seed {seeds} vary by more than {DRIFT:.0%}; compare times with care."
            )
    paths = section.norm_paths
    if any(path.startswith("fused") for path in paths):
        for path, labels in paths.items():
            if "native" in path:
                notes.append(f"Not all norms ran fused; {', '.join(labels)}: {path}. This shows in their times.")
    commits = {str(run.environment["commit"]) for run in section.runs if run.environment.get("commit")}
    if len(commits) > 1:
        notes.append(f"The runs were made by {len(commits)} different commits.")
    return notes


def _is_failure(run: RunRecord) -> bool:
    """Whether the run ended without a result."""
    return run.status.state in ("diverged", "failed", "interrupted")


def _failure(group: Group, run: RunRecord) -> str:
    """Say in a line which run ended how and why."""
    where = "".join(f", {field_name(path)} {format_scalar(value)}" for path, value in group.setting)
    reason = " ".join((run.status.reason or "no reason recorded").split())
    return f"{group.label}{where}, seed {run.config.seed} {run.status.state}: {reason} ({run.run_id})"


def _drifts(run: RunRecord) -> bool:
    seconds = [epoch.train_seconds for epoch in run.epochs[1:]]
    spread = median_and_mad(seconds)
    return spread is not None and max(abs(value - spread.median) for value in seconds) > DRIFT * spread.median


def describe_environment(environment: Mapping[str, str]) -> str:
    """Write an environment as ``cuda, NVIDIA H100, torch 2.11, CUDA 13.0, bf16``."""
    prefixes = {"torch": "torch ", "cuda": "CUDA "}
    return ", ".join(f"{prefixes.get(key, '')}{value}" for key, value in environment.items())


def field_name(path: str) -> str:
    """Return how a config field is called in a header: ``train.batch_size`` -> ``batch size``."""
    section, _, rest = path.partition(".")
    name = section if rest == "name" or not rest else rest.removeprefix("options.")
    return name.replace("_", " ")


def format_scalar(value: Scalar) -> str:
    """Write a config value as short as it can be read back."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
