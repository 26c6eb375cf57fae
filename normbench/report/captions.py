"""The words around a table: captions, what to be careful about, what went wrong, and names of fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from normbench.config.schema import AnalysisConfig
from normbench.report.batch_one import COLLAPSED_BELOW, STABLE_FROM, BatchOneProbe
from normbench.report.comparison_table import Row
from normbench.report.epoch_times import EpochTime, reasons_untimed
from normbench.report.grouping import Group, Scalar, Section, Setting, unpaired
from normbench.report.paired import MIN_SEEDS
from normbench.report.stats import median_and_mad
from normbench.report.task_report import task_report
from normbench.report.verdicts import Verdict
from normbench.runs.looks_file import RecordedLooks
from normbench.runs.records import RunRecord
from normbench.runs.timing_file import Timing
from normbench.runs.tuning_file import Tuning
from normbench.tasks import Measure

DRIFT = 0.10
"""Epoch times that differ from their run's median by more than this share are pointed out."""

FRESH_SEEDS = (
    "Fresh seeds: what a new comparison should plan for a verdict; adding seeds to this one after looking at it would "
    "break the promise of at most 5 % false verdicts."
)
WITHHELD = (
    "No verdict is given where fewer than 4 of 5 seeds were completed by both norms, unless the other runs, counted "
    "as worse than any, agree with it."
)
ADDED_SEEDS = (
    "Seeds were added after the verdicts had been looked at ({numbers} seeds): the chance of a false better or worse "
    "is larger than 5 % (docs/statistics.md); compare --until-resolved adds seeds without that."
)
FIRST_RUN_MEMORY = (
    "On a GPU NormBench 0.1.0 charged the first run of a process with more memory than the later ones, whatever its "
    "norm: compare with care."
)
_VERSION_OF_FIRST_RUN_MEMORY = "0.1.0"


def short_caption(section: Section, rows: Sequence[Row]) -> str:
    """Return what the numbers of a table are, in two lines; `caption` and `cost_caption` say the rest."""
    report = task_report(section.task)
    sources = {row.time_source for row in rows}
    times = "norms timed in turn" if "interleaved" in sources else "from the runs themselves"
    return (
        f"On {report.data(section).rstrip(',')}: mean ± 95 % t interval over seeds.\n"
        f"{capitalized(report.time)}: {times}, median ± spread. More: table --explain"
    )


def caption(section: Section, rows: Sequence[Row], num_sections: int, margins: Mapping[str, float]) -> str:
    """Return the sentences on estimator, interval and test that stand below a table."""
    measures = section.task.measures
    sentences = [task_report(section.task).results(section)]
    within = " within its setting" if len(section.by_setting) > 1 else ""
    results = [result for row in rows for result in row.results.values()]
    if any(result.comparison for result in results):
        units = dict.fromkeys(measure.difference_unit for measure in measures)
        unit = f" in {next(iter(units))}," if len(units) == 1 else ""
        per_measure = ", adjusted over the norms of one measure" if len(measures) > 1 else ""
        within_margin = listed(dict.fromkeys(describe_margin(measure, margins[measure.name]) for measure in measures))
        sentences.append(
            f"Difference: to {section.baseline}{within}, paired by seed,{unit} with its 95 % t interval. Verdict: "
            f"Holm-adjusted paired t test at 5 %{per_measure}, from {MIN_SEEDS} seeds on; equivalent means within "
            f"{within_margin}, by two one-sided tests at 5 %, adjusted likewise."
        )
    if any(result.comparison and result.comparison.seeds_to_resolve for result in results):
        sentences.append(FRESH_SEEDS)
    if len(measures) == 1 and any(result.rank for result in results):
        sentences.append(f"Rank: the places that a norm may hold{within}, at a joint confidence of 95 %.")
    sentences.append("Runs: completed of planned; only completed runs enter the numbers.")
    if num_sections > 1 and section.rates is None:
        sentences.append(
            f"This is one of {num_sections} tables: runs from different devices, versions or precisions are not mixed."
        )
    return " ".join(sentences)


def design_caption(section: Section, rows: Sequence[Row], analysis: AnalysisConfig, looks: RecordedLooks) -> str:
    """Return the sentences on how the comparison was planned; each with a space in front, nothing by default."""
    results = [result for row in rows for result in row.results.values() if result.comparison]
    sentences = []
    if looks.maximum is not None:
        numbers = listed(str(len(look.seeds)) for look in looks.looks)
        sentences.append(
            f"Seeds were added until verdicts were resolved, at most {looks.maximum}; looked at after {numbers}. The "
            "5 % are shared among the looks (docs/statistics.md); intervals are not adjusted for them."
        )
    if len(section.by_setting) > 1 and analysis.family == "sweep":
        sentences.append("The p values are adjusted over all settings together.")
    if any(result.comparison and result.comparison.is_borrowed for result in results):
        sentences.append(
            "Each cell's standard deviation borrows from the other cells' (moderated t test): intervals and tests rest "
            "on both; `--spread own` takes each cell's alone."
        )
    if any(result.comparison and result.comparison.is_withheld for result in results):
        sentences.append(WITHHELD)
    return "".join(f" {sentence}" for sentence in sentences)


def describe_rates(section: Section, tuning: Tuning) -> str | None:
    """Return which learning rates the runs of a section have, where they were tuned."""
    if section.rates == "each its own":
        images = "held-out images" if tuning.split == "val" else "the test images"
        seeds = "seed" if len(tuning.seeds) == 1 else "seeds"
        count, num_seeds = len(tuning.of(tuning.labels[0])), len(tuning.seeds)
        return f"each norm at its own learning rate, the best of {count} on {images} over {num_seeds} {seeds}"
    if section.rates == "one for all":
        return f"with one learning rate for all norms ({tuning.shared_rate:.3g})"
    return None if section.rates is None else "with learning rates of an earlier tuning"


def tuning_notes(section: Section, tuning: Tuning) -> list[str]:
    """Return which norms' own rates lie at an end of those that were tried, so that a better one may lie beyond."""
    if section.rates != "each its own":
        return []
    labels = {run.config.label for run in section.runs} & set(tuning.labels)
    return [
        f"{label}: its best learning rate, {tuning.chosen[label]:.3g}, is the {edge} that was tried; a better one may "
        "lie beyond. Widen the range of tune."
        for label in tuning.labels
        if label in labels and (edge := tuning.at_edge(label))
    ]


def pair_notes(section: Section, sections: Sequence[Section]) -> list[str]:
    """Return which completed runs have no partner because the baseline's run of their seed took place elsewhere."""
    lines = []
    for conditions, seeds in unpaired(section, sections).items():
        here, there = dict(section.environment), dict(conditions)
        differing = [key for key in {**here, **there} if here.get(key) != there.get(key)]
        places = (describe_environment({key: found.get(key, "-") for key in differing}) for found in (here, there))
        runs = "; ".join(f"{label}, seed {', '.join(map(str, sorted(own)))}" for label, own in seeds.items())
        lines.append(
            f"No pairs: {runs} ran on {next(places)}, and the baseline with these seeds on {next(places)}. "
            "Train all norms of a seed under the same conditions."
        )
    return lines


def look_notes(looks: RecordedLooks, rows: Sequence[Row]) -> list[str]:
    """Return that seeds were added without a rule, where they were, and verdicts rest on them."""
    numbers = [len(look.seeds) for look in looks.looks if len(look.seeds) >= MIN_SEEDS]
    is_tested = any(result.comparison and result.comparison.holm_p for row in rows for result in row.results.values())
    if looks.maximum is not None or len(numbers) < 2 or not is_tested:
        return []
    return [ADDED_SEEDS.format(numbers=listed(map(str, numbers)))]


def describe_margin(measure: Measure, margin: float) -> str:
    """Write the difference below which norms count as equivalent: ``±0.5 points``."""
    if measure.margin_is_relative:
        return f"±{100 * margin:g} % of the baseline's mean"
    return f"±{measure.scale * margin:g} {measure.difference_unit}".rstrip()


def verdict_word(measure: Measure, verdict: Verdict) -> str:
    """Write a verdict for people: ``better``, but ``lower`` of a measure in which less is better only by itself."""
    if measure.higher_is_better:
        return verdict
    return {"better": "lower", "worse": "higher"}.get(verdict, verdict)


def probe_caption(probe: BatchOneProbe) -> str:
    """Return the sentences that explain the column on batch size 1."""
    sentences = [
        f"At batch size 1: test accuracy after {probe.num_steps:,} steps on one image each at learning rate "
        f"{probe.learning_rate:.3g}, in evaluation mode and with the statistics of each test image alone."
    ]
    if probe.best_accuracy is not None:
        sentences.append(
            f"Stable: at least {100 * STABLE_FROM:g} % of the best norm's gain over chance there ({probe.best_label}, "
            f"{100 * probe.best_accuracy:.1f} %); collapsed: less than {100 * COLLAPSED_BELOW:g} %, or a diverged run; "
            "degraded: between. In brackets: what other seeds might give, by paired t tests at 5 % against both lines."
        )
    if probe.accuracy_without_norm is not None:
        sentences.append(f"Without a norm: {100 * probe.accuracy_without_norm.mean:.1f} %.")
    return " ".join(sentences)


def cost_caption(section: Section, rows: Sequence[Row]) -> str:
    """Return the sentences on times and memory that stand below a table."""
    time = task_report(section.task).time
    over = "runs and epochs" if section.task.has_epochs else "runs"
    later = ", first epoch left out" if any(len(run.epochs) > 1 for run in section.runs) else ""
    sources = {row.time_source for row in rows}
    sentences = []
    if "interleaved" in sources:
        counts = sorted({row.epoch_seconds.n for row in rows if row.epoch_seconds and row.time_source == "interleaved"})
        rounds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
        device = section.environment.get("device_name", section.environment["device"])
        sentences.append(
            f"{capitalized(time)}: training steps only, norms interleaved in one process after training, median of "
            f"{rounds} rounds ± median absolute deviation, on {device}; ratios are those of the medians, ± the median "
            "absolute deviation of the rounds' own ratios, "
            '"about 1x" where that spans 1.'
        )
    is_shared = any(run.runs_at_once > 1 for run in section.runs)
    if "runs" in sources or not (sentences or is_shared):
        what = f"Where the notes say so, {time} comes from the runs" if sentences else capitalized(time)
        sentences.append(f"{what}: training steps only, median ± median absolute deviation over {over}{later}.")
    sentences.append("A deviation that rounds to 0 is left out.")
    if reached := {row.time_source for row in rows if any(row.seconds_to_reach.values())}:
        times = {"interleaved": f"epochs times the {time}", "runs": "as the runs themselves measured it"}
        how = " or, where the notes say so, ".join(text for source, text in times.items() if source in reached)
        sentences.append(f"Time to an accuracy: {how}; the median over runs if all reached it.")
    timed = "each norm's alone, as measured when it was timed, or else " if "interleaved" in sources else ""
    sentences.append(f"Peak memory: {timed}the largest of the runs{' without others beside' if is_shared else ''}.")
    versions = {run.environment.get("normbench") for run in section.runs}
    if section.environment["device"].startswith("cuda") and _VERSION_OF_FIRST_RUN_MEMORY in versions:
        sentences.append(FIRST_RUN_MEMORY)
    return " ".join(sentences)


def notes(section: Section, times: Sequence[Mapping[str, EpochTime]]) -> list[str]:
    """Return the reasons to be careful with a table, a line each."""
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
    """Return which norms were not timed with the others, and why; nothing where none was timed so."""
    untimed: dict[str, list[str]] = {}
    for groups, own_times in zip(section.by_setting, times, strict=True):
        reasons = reasons_untimed(groups, section, timing)
        for group in groups:
            if group.label in own_times and own_times[group.label].source == "runs":
                untimed.setdefault(reasons.get(group.label, "not timed with the others"), []).append(group.label)
    time = task_report(section.task).time
    shared = [
        group.label
        for groups, own_times in zip(section.by_setting, times, strict=True)
        for group in groups
        if group.completed and group.label not in own_times
    ]
    lines = []
    if shared:
        labels = ", ".join(dict.fromkeys(shared))
        lines.append(f"{labels}: no {time}; the runs shared the device with others, and were not timed apart.")
    if all(time.source == "runs" for own_times in times for time in own_times.values()):
        return lines
    return lines + [
        f"{', '.join(dict.fromkeys(labels))}: {time} from the runs, each by itself ({reason})."
        for reason, labels in untimed.items()
    ]


def is_failure(run: RunRecord) -> bool:
    """Return whether the run ended without a result."""
    return run.status.state in ("diverged", "failed", "interrupted")


def failure(group: Group, run: RunRecord) -> str:
    """Return in a line which run ended how and why."""
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
    """Return a config field's name in a header: ``train.batch_size`` -> ``batch size``."""
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


def capitalized(text: str) -> str:
    """Return `text` with its first letter in upper case and the rest as it is."""
    return text[:1].upper() + text[1:]


def listed(words: Iterable[str]) -> str:
    """Write words as ``a, b and c``."""
    *rest, last = list(words)
    return f"{', '.join(rest)} and {last}" if rest else last
