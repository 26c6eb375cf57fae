"""Which style-transfer runs belong together, and what is measured of each group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normbench.config.schema import DEFAULT_BASELINE
from normbench.errors import UnknownNameError
from normbench.report.captions import describe_setting
from normbench.report.grouping import Scalar, flatten
from normbench.report.stats import Estimate, summarize
from normbench.runs.records import ExperimentRecord, RunRecord
from normbench.tasks.style_transfer import StyleSummary

CONTRAST_SHOWN = 0.4
"""The factor of contrast that stands in the tables."""

_ENVIRONMENT = ("device_name", "torch", "precision", "engine", "features")
"""What, beside the config, must be equal within a group."""

_MAX_WHERE = 40
"""Characters of a label that tell its setting; where it takes more, groups are numbered."""

Setting = Mapping[str, Scalar]


@dataclass(frozen=True)
class Measure:
    """A number of a completed run, lower being closer to what is wanted."""

    name: str
    header: str
    """With the unit."""
    of: Callable[[StyleSummary], float]
    form: str
    """How it is written."""


MEASURES = (
    Measure("content_loss", "content loss", lambda summary: summary.content_loss, ".4f"),
    Measure("style_loss", "style loss", lambda summary: summary.style_loss, ".4f"),
    Measure("total_loss", "weighted sum of losses", lambda summary: summary.total_loss, ".4f"),
    Measure(
        "contrast_change",
        f"change of the output at {100 * CONTRAST_SHOWN:g} % contrast (%)",
        lambda summary: 100 * summary.contrast_change[CONTRAST_SHOWN],
        ".1f",
    ),
)


@dataclass(frozen=True)
class StyleGroup:
    """The runs of one norm under one setting, which differ in the seed."""

    label: str
    norm: str
    runs: tuple[RunRecord, ...]
    setting: Setting
    """All but norm and seed; groups are compared with each other where these are equal."""
    num_planned: int

    @property
    def completed(self) -> list[RunRecord]:
        """The runs that enter means, by seed."""
        done = [run for run in self.runs if run.status.state == "completed" and run.summary is not None]
        return sorted(done, key=lambda run: run.config.seed)

    @property
    def summaries(self) -> list[StyleSummary]:
        """Of the completed runs."""
        return [run.summary for run in self.completed if run.summary is not None]

    def scores(self, measure: Measure) -> dict[int, float]:
        """Return the measure by seed, of completed runs only."""
        return {run.config.seed: measure.of(run.summary) for run in self.completed if run.summary is not None}

    @property
    def count_text(self) -> str:
        """Write the runs as ``2/3, 1 diverged``."""
        states = Counter(run.status.state for run in self.runs)
        rest = [f"{count} {state}" for state, count in sorted(states.items()) if state != "completed"]
        if not_started := self.num_planned - len(self.runs):
            rest.append(f"{not_started} not started")
        return ", ".join([f"{len(self.completed)}/{self.num_planned}", *rest])


def style_groups(experiment: ExperimentRecord) -> list[StyleGroup]:
    """Sort runs into groups; runs of other settings, devices or versions never share one, and their labels say so."""
    members: dict[tuple[str, tuple[tuple[str, Scalar], ...]], list[RunRecord]] = {}
    like = next((run for run in experiment.runs if run.environment), experiment.runs[0])
    for run in experiment.runs:
        members.setdefault((_norm_key(run), tuple(_setting(run, like).items())), []).append(run)
    settings = [dict(setting) for _, setting in members]
    varied = [
        path for path in dict.fromkeys(p for s in settings for p in s) if len({s.get(path) for s in settings}) > 1
    ]
    seeds = experiment.settings.get("seeds", ())
    num_planned = len(seeds) if isinstance(seeds, list | tuple) and not varied else 0
    used: Counter[str] = Counter()
    groups = []
    for runs, setting in zip(members.values(), settings, strict=True):
        where = describe_setting(tuple((path, setting.get(path)) for path in varied))
        label = runs[0].config.label + (f" ({where})" if 0 < len(where) <= _MAX_WHERE else "")
        used[label] += 1
        unique = label if used[label] == 1 else f"{label} #{used[label]}"
        planned = max(len(runs), num_planned)
        groups.append(StyleGroup(unique, runs[0].config.norm.name, tuple(runs), setting, planned))
    return groups


def _norm_key(run: RunRecord) -> str:
    return run.config.norm.model_dump_json(exclude={"label"})


def _setting(run: RunRecord, like: RunRecord) -> dict[str, Scalar]:
    """Return all but norm and seed; what a run that died early did not record is taken to be as with `like`."""
    config: dict[str, Any] = run.config.model_dump(exclude={"norm", "seed"})
    recorded = {**like.environment, **run.environment}
    known = {key: recorded[key] for key in _ENVIRONMENT if key in recorded}
    if "features" in known:
        known["features"] = Path(str(known["features"])).name  # a run's id, wherever it lies
    return flatten(config | known)


def find_baseline(experiment: ExperimentRecord, baseline: str | None) -> str | None:
    """Return the norm, by label or key, that others are compared with: the one asked for, the config's, or bn.

    Raises:
        UnknownNameError: `baseline` is given and no run has that norm.
    """
    names = dict.fromkeys(name for run in experiment.runs for name in (run.config.label, run.config.norm.name))
    if baseline is not None and baseline not in names:
        raise UnknownNameError("baseline norm", baseline, names)
    wanted = baseline or experiment.settings.get("baseline") or DEFAULT_BASELINE
    return wanted if wanted in names else None


def contrast_estimates(group: StyleGroup) -> dict[float, Estimate]:
    """Return the output's change by factor of contrast, over the group's seeds; 0 at the unchanged image."""
    factors = sorted({factor for summary in group.summaries for factor in summary.contrast_change}, reverse=True)
    found = {factor: summarize([s.contrast_change[factor] for s in group.summaries]) for factor in factors}
    start = summarize([0.0 for _ in group.summaries])
    return {factor: estimate for factor, estimate in {1.0: start, **found}.items() if estimate is not None}
