"""What the report of a style-transfer experiment says, before it becomes HTML or Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from normbench.report.captions import FRESH_SEEDS
from normbench.report.columns import NOTHING, TESTS_CAPTION, Align, format_p
from normbench.report.page import PageFigure
from normbench.report.stats import Estimate, summarize
from normbench.report.verdicts import MIN_SEEDS, Comparison, compare_to_baseline, rank_ranges
from normbench.runs.records import ExperimentRecord
from normbench.style.figures import contrast_figure, loss_figure, picture_grid
from normbench.style.groups import MEASURES, Measure, StyleGroup, find_baseline, style_groups

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARGIN_SHARE = 0.01
"""Differences smaller than this share of the baseline's mean count as equivalent."""
_WORDS = {"better": "higher", "worse": "lower", "equivalent": "equivalent", "not resolved": "not resolved"}
"""What a verdict of `report.paired` on scores, where more is better, is called here, where less is."""


@dataclass(frozen=True)
class Grid:
    """A table for people: text in every cell."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    num_left: int = 1
    """Columns that are words, not numbers: the first ones."""

    @property
    def aligns(self) -> list[Align]:
        """Of the columns."""
        return ["left" if position < self.num_left else "right" for position in range(len(self.headers))]


@dataclass(frozen=True)
class StyleMeasured:
    """One measure of one group: its estimate, and how it compares with the baseline."""

    group: StyleGroup
    measure: Measure
    estimate: Estimate | None
    is_baseline: bool
    comparison: Comparison | None
    """Candidate minus baseline; None for the baseline itself and where nothing can be compared."""
    rank: tuple[int, int] | None
    """Places from the lowest on that the group may hold within its setting, at 95 % joint confidence."""

    @property
    def verdict(self) -> str:
        """Return the verdict in words, with what would settle an open one."""
        if self.is_baseline:
            return "baseline"
        if self.comparison is None:
            return NOTHING
        word, needed = _WORDS[self.comparison.verdict], self.comparison.seeds_to_resolve
        return f"{word} (~{needed} fresh seeds)" if needed is not None else word


@dataclass(frozen=True)
class StylePage:
    """A whole report."""

    title: str
    opening: str
    answers: tuple[str, ...]
    unfinished: str
    results: Grid
    tests: Grid | None
    cost: Grid
    figures: tuple[PageFigure, ...]
    failures: tuple[str, ...]
    measured: tuple[tuple[str, str], ...]
    """How it was measured: what all runs share, by name."""


def make_style_page(experiment: ExperimentRecord, *, baseline: str | None = None) -> StylePage:
    """Put together all that the experiment's report says and shows.

    Raises:
        UnknownNameError: `baseline` is given and no run has that norm.
    """
    groups = style_groups(experiment)
    found = measure_groups(groups, find_baseline(experiment, baseline))
    num_planned = sum(group.num_planned for group in groups)
    missing = num_planned - sum(len(group.completed) for group in groups)
    return StylePage(
        title=experiment.name,
        opening=_opening(groups),
        answers=tuple(_answers(found)),
        unfinished=f"{missing} of {num_planned} runs have no result." if missing else "",
        results=_results(groups, found),
        tests=_tests(found),
        cost=_cost(groups),
        figures=tuple(_figures(groups)),
        failures=tuple(_failures(groups)),
        measured=tuple(_measured(experiment, groups)),
    )


def measure_groups(groups: Sequence[StyleGroup], baseline: str | None) -> list[StyleMeasured]:
    """Return every measure of every group, compared with the baseline (a label or key) of its setting."""
    found = []
    for measure in MEASURES:
        for group in groups:
            peers = {peer.label: peer for peer in groups if peer.setting == group.setting}
            scores = {label: peer.scores(measure) for label, peer in peers.items()}
            references = [p.label for p in peers.values() if baseline in (p.runs[0].config.label, p.norm)]
            reference = references[0] if references else None
            comparison = None
            base = summarize(list(scores[reference].values())) if reference is not None else None
            if reference is not None and reference != group.label and base is not None:
                others = {label: by_seed for label, by_seed in scores.items() if label != reference}
                margin = MARGIN_SHARE * abs(base.mean)
                comparison = compare_to_baseline(others, scores[reference], margin).get(group.label)
            can_rank = sum(len(by_seed) >= MIN_SEEDS for by_seed in scores.values()) > 1
            lower_first = {label: {seed: -value for seed, value in by.items()} for label, by in scores.items()}
            rank = rank_ranges(lower_first).get(group.label) if can_rank else None
            estimate = summarize(list(scores[group.label].values()))
            found.append(StyleMeasured(group, measure, estimate, group.label == reference, comparison, rank))
    return found


def _opening(groups: Sequence[StyleGroup]) -> str:
    config = groups[0].runs[0].config
    return (
        f"Style {config.style}, content {config.content}, feature network {config.features}, {config.train.steps} "
        f"steps of {config.train.batch_size} images of {config.image_size}x{config.image_size}."
    )


def _answers(found: Sequence[StyleMeasured]) -> list[str]:
    """Say, for each measure, which norm is lowest and what is resolved against the baseline."""
    answers = []
    for measure in MEASURES:
        of_measure = [entry for entry in found if entry.measure is measure and entry.estimate is not None]
        if of_measure:
            answers.append(f"{_capital(measure.header)}: {_lowest(of_measure)}{_against_baseline(of_measure)}")
    return answers or ["No run has completed."]


def _lowest(found: Sequence[StyleMeasured]) -> str:
    lowest = min(found, key=_mean)
    number = f"{lowest.group.label} has the lowest mean, {_written(lowest.measure, lowest.estimate)} (n={_n(lowest)})"
    if len(found) == 1:
        return f"{lowest.group.label} reaches {_written(lowest.measure, lowest.estimate)} (n={_n(lowest)})."
    leaders = [entry for entry in found if entry.rank is not None and entry.rank[0] == 1]
    if not leaders:
        return f"{number}; a verdict takes at least {MIN_SEEDS} seeds of each."
    if len(leaders) == 1:
        return f"{number}, resolved against the others at a joint confidence of 95 %."
    if len(leaders) == len(found):
        return f"{number}; which norm is lowest is not resolved."
    return f"{number}; which of {_listed(entry.group.label for entry in leaders)} is lowest is not resolved."


def _against_baseline(found: Sequence[StyleMeasured]) -> str:
    baselines = [entry.group.label for entry in found if entry.is_baseline]
    compared = [(entry, entry.comparison) for entry in found if entry.comparison is not None]
    if not baselines or not any(comparison.holm_p is not None for _, comparison in compared):
        return ""
    parts = []
    for verdict, word in _WORDS.items():
        if labels := [entry.group.label for entry, comparison in compared if comparison.verdict == verdict]:
            parts.append(f"{_listed(labels)} {word}")
    return f" Against {baselines[0]}: {'; '.join(parts)}."


def _results(groups: Sequence[StyleGroup], found: Sequence[StyleMeasured]) -> Grid:
    by_group = {(entry.group.label, entry.measure.name): entry for entry in found}
    rows = []
    for group in groups:
        cells = [_written(m, by_group[group.label, m.name].estimate) for m in MEASURES]
        rows.append((group.label, *cells, group.count_text))
    caption = (
        "Mean ± half the 95 % Student-t interval over seeds (a single run has no interval); lower is better. Losses "
        "are relative (1: as far from the target as nothing at all), means over the last tenth of the steps. The last "
        "measure: how much the output changes, in % of its own contrast, when the content image keeps 40 % of its "
        "contrast. Runs: completed of planned; only completed runs enter the numbers."
    )
    return Grid(("norm", *(measure.header for measure in MEASURES), "runs"), tuple(rows), caption)


def _tests(found: Sequence[StyleMeasured]) -> Grid | None:
    """Return the differences to the baseline with their tests; None where there is nothing to compare."""
    rows = []
    for entry in found:
        comparison = entry.comparison
        if comparison is None:
            continue
        difference = comparison.difference
        rows.append(
            (
                entry.measure.name.replace("_", " "),
                entry.group.label,
                _written(entry.measure, difference.estimate, sign=True),
                str(difference.estimate.n),
                NOTHING if difference.cohens_dz is None else f"{difference.cohens_dz:+.2f}",
                format_p(difference.t_p),
                format_p(comparison.holm_p),
                format_p(difference.sign_flip_p),
                entry.verdict,
            )
        )
    baselines = dict.fromkeys(entry.group.label for entry in found if entry.is_baseline)
    if not rows:
        return None
    headers = ("measure", "norm", f"difference to {_listed(baselines)}", "pairs", "Cohen's d_z", "t test p")
    caption = (
        f"{TESTS_CAPTION} Holm's adjustment is over the norms of one measure; equivalent means within "
        f"{100 * MARGIN_SHARE:g} % of the baseline's mean."
    )
    if any(entry.comparison and entry.comparison.seeds_to_resolve for entry in found):
        caption += f" {FRESH_SEEDS}"
    return Grid((*headers, "Holm-adjusted p", "sign-flip p", "verdict"), tuple(rows), caption, num_left=2)


def _cost(groups: Sequence[StyleGroup]) -> Grid:
    rows = []
    for group in groups:
        done = group.summaries
        memory = [summary.peak_memory_mib for summary in done if summary.peak_memory_mib is not None]
        rows.append(
            (
                group.label,
                f"{median(s.train_seconds for s in done):.2f}" if done else NOTHING,
                f"{median(s.images_per_second for s in done):,.0f}" if done else NOTHING,
                f"{median(s.startup_seconds for s in done):.1f}" if done else NOTHING,
                f"{done[0].num_parameters:,}" if done else NOTHING,
                f"{max(memory):,.0f}" if memory else NOTHING,
            )
        )
    headers = ("norm", "training time (s)", "images/s", "start-up (s)", "parameters", "peak memory (MiB)")
    caption = (
        "Medians over runs; training steps only, start-up (building, compilation, capture) apart. Peak memory: the "
        "largest of the runs."
    )
    return Grid(headers, tuple(rows), caption)


def _figures(groups: Sequence[StyleGroup]) -> list[PageFigure]:
    interval = "95 % Student-t intervals over n completed runs, given in the legend."
    figures: list[tuple[str, str, str, Figure]] = []
    if any(group.completed for group in groups):
        figures.append(
            (
                "style_pictures",
                "Pictures",
                "Content images that were not trained on, and what the network of each norm made of them, first seed.",
                picture_grid(groups),
            )
        )
    figures.append(
        ("style_losses", "Losses", f"Content and style loss by iteration. Bands: {interval}", loss_figure(groups))
    )
    if any(group.completed for group in groups):
        figures.append(
            (
                "style_contrast",
                "Contrast of the content image",
                "How much the output changes when the content image loses contrast: 0 where it stays the same, 100 % "
                f"where it moves as far as its own contrast goes. Bars: {interval} A network whose output is the same "
                "for every image changes least of all: read this beside the pictures.",
                contrast_figure(groups),
            )
        )
    return [PageFigure(*figure) for figure in figures]


def _failures(groups: Sequence[StyleGroup]) -> list[str]:
    return [
        f"{group.label}, seed {run.config.seed} {run.status.state}: {run.status.reason or 'no reason recorded'} "
        f"({run.run_id})"
        for group in groups
        for run in group.runs
        if run.status.state in ("diverged", "failed", "interrupted")
    ]


def _measured(experiment: ExperimentRecord, groups: Sequence[StyleGroup]) -> list[tuple[str, str]]:
    """Return how the runs were made, by name; where they differ, all that there is."""
    runs = experiment.runs
    shared = dict.fromkeys(path for group in groups for path in group.setting)
    found = [("seeds", ", ".join(map(str, sorted({run.config.seed for run in runs}))))]
    for path in shared:
        values = dict.fromkeys(str(g.setting[path]) for g in groups if g.setting.get(path) is not None)
        if values and list(values) != ["auto"]:  # what it came to is recorded beside it
            found.append((path.removeprefix("train.").replace("_", " "), ", ".join(values)))
    for key in ("memory_format", "cuda", "platform", "normbench", "commit"):
        values = dict.fromkeys(str(run.environment[key]) for run in runs if run.environment.get(key) is not None)
        if values:
            found.append((key.replace("_", " "), ", ".join(values)))
    days = sorted({time[:10] for run in runs for time in (run.status.started_at, run.status.ended_at) if time})
    return [*found, ("measured", days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}")]


def _written(measure: Measure, estimate: Estimate | None, *, sign: bool = False) -> str:
    if estimate is None:
        return NOTHING
    mean = format(estimate.mean, f"{'+' if sign else ''}{measure.form}")
    return mean if estimate.half_width is None else f"{mean} ± {estimate.half_width:{measure.form}}"


def _mean(entry: StyleMeasured) -> float:
    return entry.estimate.mean if entry.estimate else float("inf")


def _n(entry: StyleMeasured) -> int:
    return entry.estimate.n if entry.estimate else 0


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _listed(words: Iterable[str]) -> str:
    """Write ``a, b and c``."""
    *rest, last = list(words)
    return f"{', '.join(rest)} and {last}" if rest else last
