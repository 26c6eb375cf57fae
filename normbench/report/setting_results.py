"""Every setting's results in one measure: norms compared with the baseline, as the experiment's analysis wants it."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from normbench.config.schema import AnalysisConfig
from normbench.errors import ConfigError
from normbench.report.comparison_table import Result
from normbench.report.grouping import Group, Section
from normbench.report.paired import MIN_SEEDS, Spread
from normbench.report.sequential import Looks
from normbench.report.stats import summarize
from normbench.report.verdicts import Comparison, Evidence, Outcomes, borrowed_spreads, judge, rank_ranges, weigh
from normbench.runs.looks_file import RecordedLooks
from normbench.runs.records import ExperimentRecord
from normbench.runs.untrusted import describe_problem
from normbench.tasks import Measure

_Cell = tuple[int, str]
"""The position of a setting, and the label of a norm there."""


def setting_results(
    section: Section, measure: Measure, margin: float, analysis: AnalysisConfig, recorded: RecordedLooks
) -> list[Mapping[str, Result]]:
    """Return, for each of the section's settings, each norm's result by its label."""
    looks = sequential_looks(recorded)
    evidence = _evidence(section, measure, margin, looks, {})
    if analysis.spread == "borrowed" and looks is None and len(section.by_setting) > 1:
        evidence = _evidence(section, measure, margin, looks, borrowed_spreads(evidence))
    families = [
        {cell: found for cell, found in evidence.items() if analysis.family == "sweep" or cell[0] == position}
        for position in range(1 if analysis.family == "sweep" else len(section.by_setting))
    ]
    comparisons: dict[_Cell, Comparison] = {}
    for family in families:
        comparisons |= judge(family, higher_is_better=measure.higher_is_better, can_plan=looks is None)
    return [
        _results(groups, measure, looks, {label: found for (at, label), found in comparisons.items() if at == position})
        for position, groups in enumerate(section.by_setting)
    ]


def analysis_of(experiment: ExperimentRecord, changes: Mapping[str, str] | None = None) -> AnalysisConfig:
    """Return how the experiment wants verdicts to be given, with `changes` to it.

    Raises:
        ConfigError: a change is none that can be made.
    """
    try:
        return AnalysisConfig.model_validate({**(experiment.settings.get("analysis") or {}), **(changes or {})})
    except ValidationError as error:
        raise ConfigError(f"analysis: {describe_problem(error)}") from None


def sequential_looks(recorded: RecordedLooks) -> Looks | None:
    """Return the looks by which seeds were added under a rule that was set before; None where there was none."""
    if recorded.maximum is None:
        return None
    return Looks(tuple(frozenset(look.seeds) for look in recorded.looks), recorded.maximum)


def _evidence(
    section: Section, measure: Measure, margin: float, looks: Looks | None, spreads: Mapping[_Cell, Spread]
) -> dict[_Cell, Evidence]:
    found = {}
    for position, groups in enumerate(section.by_setting):
        outcomes = {group.label: Outcomes(group.scores(measure), group.lost) for group in groups}
        baseline = outcomes.pop(section.baseline or "", None)
        if baseline is None:
            continue
        mean = summarize(list(baseline.scores.values()))
        raw_margin = measure.raw_margin(margin, mean.mean if mean else None)
        for label, candidate in outcomes.items():
            weighed = weigh(candidate, baseline, raw_margin, looks=looks, spread=spreads.get((position, label)))
            if weighed is not None:
                found[position, label] = weighed
    return found


def _results(
    groups: tuple[Group, ...], measure: Measure, looks: Looks | None, comparisons: Mapping[str, Comparison]
) -> dict[str, Result]:
    scores = {group.label: group.scores(measure) for group in groups}
    lost = {group.label: group.lost for group in groups}
    can_rank = sum(len(by_seed) >= MIN_SEEDS for by_seed in scores.values()) > 1
    ranks = {}
    if can_rank:
        ranks = rank_ranges(scores, higher_is_better=measure.higher_is_better, lost=lost, looks=looks)
    return {
        label: Result(summarize(list(by_seed.values())), comparisons.get(label), ranks.get(label))
        for label, by_seed in scores.items()
    }
