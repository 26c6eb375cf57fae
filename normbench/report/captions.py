"""What a table says in words: captions, what to be careful about, and what went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from normbench.report.batch_one import COLLAPSED_BELOW, STABLE_FROM, BatchOneProbe
from normbench.report.epoch_times import EpochTime, reasons_untimed
from normbench.report.grouping import Group, Scalar, Section, Setting
from normbench.report.stats import median_and_mad
from normbench.report.table import Row
from normbench.report.verdicts import MIN_SEEDS
from normbench.runs.records import RunRecord
from normbench.runs.timing_file import Timing

DRIFT = 0.10
"""Epoch times that differ from their run's median by more than this share are pointed out."""

FRESH_SEEDS = (
    "Fresh seeds: what a new comparison should plan for a verdict; adding seeds to this one after looking at it would "
    "break the promise of at most 5 % false verdicts."
)
FIRST_RUN_MEMORY = (
    "On a GPU the first run of a process has read more than the later ones, whatever its norm: compare with care."
)


def caption(section: Section, rows: list[Row], num_sections: int, margin: float) -> str:
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
    if any(row.comparison and row.comparison.seeds_to_resolve for row in rows):
        sentences.append(FRESH_SEEDS)
    if any(row.rank for row in rows):
        sentences.append(f"Rank: the places that a norm may hold{within}, at a joint confidence of 95 %.")
    sentences.append("Runs: completed of planned; only completed runs enter the numbers.")
    if num_sections > 1:
        sentences.append(
            f"This is one of {num_sections} tables: runs from different devices, versions or precisions are not mixed."
        )
    return " ".join(sentences)


def probe_caption(probe: BatchOneProbe) -> str:
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


def cost_caption(section: Section, rows: Sequence[Row]) -> str:
    """Say what the costs are."""
    later = ", first epoch left out" if any(len(run.epochs) > 1 for run in section.runs) else ""
    sources = {row.time_source for row in rows}
    sentences = []
    if "interleaved" in sources:
        counts = sorted({row.epoch_seconds.n for row in rows if row.epoch_seconds and row.time_source == "interleaved"})
        rounds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
        device = section.environment.get("device_name", section.environment["device"])
        sentences.append(
            f"Time per epoch: training steps only, norms interleaved in one process after training, median of {rounds} "
            f"rounds ± median absolute deviation, on {device}; ratios are taken round by round."
        )
    if "runs" in sources or not sentences:
        where = "Where the notes say so, time" if sentences else "Time"
        sentences.append(
            f"{where} per epoch{' comes from the runs' if sentences else ''}: training steps only, median ± median "
            f"absolute deviation over runs and epochs{later}."
        )
    if reached := {row.time_source for row in rows if any(row.seconds_to_reach.values())}:
        times = {"interleaved": "epochs times the time per epoch", "runs": "as the runs themselves measured it"}
        how = " or, where the notes say so, ".join(text for source, text in times.items() if source in reached)
        sentences.append(f"Time to an accuracy: {how}; the median over runs if all reached it.")
    sentences.append("Peak memory: the largest of the runs.")
    if section.environment["device"].startswith("cuda"):
        sentences.append(FIRST_RUN_MEMORY)
    return " ".join(sentences)


def describe_data(section: Section) -> str:
    """Return how the section's images are called in prose; synthetic ones never pass for photographs."""
    prose = {"cifar10": "CIFAR-10", "synthetic": "synthetic images, not CIFAR-10,"}
    fields = [group.fields for group in section.groups]
    splits = dict.fromkeys((str(f.get("dataset.name")), f.get("dataset.options.eval_split") == "val") for f in fields)
    return " and ".join(
        prose.get(name, name) + (" (validation: training images held out)" if is_held_out else "")
        for name, is_held_out in splits
    )


def notes(section: Section, times: Sequence[Mapping[str, EpochTime]]) -> list[str]:
    """Say what to be careful about, a line each."""
    notes, drifts = [], []
    from_runs = {
        id(group)
        for groups, own_times in zip(section.by_setting, times, strict=True)
        for group in groups
        if group.label in own_times and own_times[group.label].source == "runs"
    }
    for group in section.groups:
        if id(group) not in from_runs:
            continue
        if drifting := [run for run in group.completed if _drifts(run)]:
            seeds = ", ".join(str(run.config.seed) for run in drifting)
            drifts.append(f"{_name(group)}, seed {seeds}")
    if drifts:
        notes.append(
            f"Compare times with care: epochs of the same run differ by more than {DRIFT:.0%}. {'; '.join(drifts)}."
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


def timing_notes(section: Section, times: Sequence[Mapping[str, EpochTime]], timing: Timing) -> list[str]:
    """Say which norms were not timed with the others, and why; nothing where none was timed so."""
    untimed: dict[str, list[str]] = {}
    for groups, own_times in zip(section.by_setting, times, strict=True):
        reasons = reasons_untimed(groups, section, timing)
        for group in groups:
            if group.label in own_times and own_times[group.label].source == "runs":
                untimed.setdefault(reasons.get(group.label, "not timed with the others"), []).append(group.label)
    if all(time.source == "runs" for own_times in times for time in own_times.values()):
        return []
    return [
        f"{', '.join(dict.fromkeys(labels))}: time per epoch from the runs, each by itself ({reason})."
        for reason, labels in untimed.items()
    ]


def is_failure(run: RunRecord) -> bool:
    """Whether the run ended without a result."""
    return run.status.state in ("diverged", "failed", "interrupted")


def failure(group: Group, run: RunRecord) -> str:
    """Say in a line which run ended how and why."""
    reason = " ".join((run.status.reason or "no reason recorded").split())
    return f"{_name(group)}, seed {run.config.seed} {run.status.state}: {reason} ({run.run_id})"


def _name(group: Group) -> str:
    """Return label and setting."""
    return ", ".join(filter(None, [group.label, describe_setting(group.setting)]))


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


def describe_setting(setting: Setting) -> str:
    """Write a setting as ``model resnet9, batch size 16``; what is on or off as ``pre norm`` or ``no pre norm``."""
    return ", ".join(
        f"{'' if value else 'no '}{field_name(path)}"
        if isinstance(value, bool)
        else f"{field_name(path)} {format_scalar(value)}"
        for path, value in setting
    )


def format_scalar(value: Scalar) -> str:
    """Write a config value as short as it can be read back."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
