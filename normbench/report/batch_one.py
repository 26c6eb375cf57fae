"""The probe at batch size 1: how each norm fares there, measured by the best that any reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from normbench.config.schema import NormConfig, RunConfig
from normbench.report.grouping import Section, environments
from normbench.report.paired import MIN_SEEDS, Scores, t_test
from normbench.report.stats import CONFIDENCE, Estimate, summarize
from normbench.runs.records import ExperimentRecord, RunRecord

Stability = Literal["stable", "degraded", "collapsed"]

CHANCE = 0.1
"""Accuracy of guessing among ten classes."""
STABLE_FROM, COLLAPSED_BELOW = 0.8, 0.5
"""Shares of the best norm's gain over chance."""
MIN_GAIN = 0.05
"""If the best norm gains less over chance, no network has learned and the probe says nothing."""
NO_NORM = "none"


@dataclass(frozen=True)
class BatchOne:
    """One norm's probe runs."""

    accuracy: Estimate | None
    """Test accuracy in evaluation mode, 0 to 1; None where no run completed."""
    batch_statistics_accuracy: Estimate | None
    """Test accuracy with the statistics of each test image alone, as in training."""
    stability: Stability | None
    """The verdict of docs/batch_one.md; None where it cannot be given yet."""
    possible: tuple[Stability, ...]
    """The verdicts that the seeds do not exclude, `stability` among them; that alone where nothing can be tested."""
    num_completed: int
    num_diverged: int


@dataclass(frozen=True)
class BatchOneProbe:
    """The probe of one section."""

    by_norm: Mapping[str, BatchOne]
    """Results by `norm_key`."""
    best_label: str | None
    """The norm, or none, with the highest mean accuracy among those without a diverged run."""
    best_accuracy: float | None
    accuracy_without_norm: Estimate | None
    num_steps: int
    learning_rate: float

    def of(self, norm: NormConfig) -> BatchOne | None:
        """Return the result of `norm`, if it was probed."""
        return self.by_norm.get(norm_key(norm))


def norm_key(norm: NormConfig) -> str:
    """Return a key that is equal for two runs if they have the same norm."""
    return f"{norm.name} {sorted(norm.options.items())}"


def batch_one_probe(experiment: ExperimentRecord, section: Section) -> BatchOneProbe | None:
    """Return the probe that was measured where `section` was; None if there is none."""
    probes = [run for run in experiment.probes if isinstance(run.config, RunConfig) and run.config.probe == "batch_one"]
    where = environments(probes)
    here = [run for run, found in zip(probes, where, strict=True) if dict(found) == section.environment]
    if not here:
        return None
    by_norm: dict[str, list[RunRecord]] = {}
    for run in here:
        by_norm.setdefault(norm_key(run.config.norm), []).append(run)
    means = {
        key: fmean(_accuracies(runs)) for key, runs in by_norm.items() if _accuracies(runs) and not _diverged(runs)
    }
    best = max(means, key=lambda key: means[key], default=None)
    best_by_seed = {} if best is None else _by_seed(by_norm[best])
    bare = [run for run in here if run.config.norm.name == NO_NORM]
    first = here[0].config
    assert isinstance(first, RunConfig)
    num_train = first.dataset.options.get("num_train")
    return BatchOneProbe(
        by_norm={key: _result(runs, means[best] if best else None, best_by_seed) for key, runs in by_norm.items()},
        best_label=by_norm[best][0].config.label if best else None,
        best_accuracy=means[best] if best else None,
        accuracy_without_norm=summarize(_accuracies(bare)),
        num_steps=num_train * first.train.epochs if isinstance(num_train, int) else 0,
        learning_rate=first.train.learning_rate,
    )


def _result(runs: Sequence[RunRecord], best_accuracy: float | None, best_by_seed: Scores) -> BatchOne:
    with_statistics = [
        run.summary.batch_statistics_accuracy
        for run in runs
        if run.summary is not None and run.summary.batch_statistics_accuracy is not None
    ]
    accuracies, num_diverged = _accuracies(runs), _diverged(runs)
    verdict = stability(accuracies, num_diverged, best_accuracy)
    return BatchOne(
        accuracy=summarize(accuracies),
        batch_statistics_accuracy=summarize(with_statistics),
        stability=verdict,
        possible=_possible(verdict, {} if num_diverged else _by_seed(runs), best_by_seed),
        num_completed=len(accuracies),
        num_diverged=num_diverged,
    )


def stability(accuracies: Sequence[float], num_diverged: int, best_accuracy: float | None) -> Stability | None:
    """Return the verdict on a norm's accuracies at batch size 1, by the rule of docs/batch_one.md."""
    if num_diverged:
        return "collapsed"
    if not accuracies or best_accuracy is None or best_accuracy - CHANCE < MIN_GAIN:
        return None
    share = (fmean(accuracies) - CHANCE) / (best_accuracy - CHANCE)
    return "stable" if share >= STABLE_FROM else "degraded" if share >= COLLAPSED_BELOW else "collapsed"


def _possible(verdict: Stability | None, accuracies: Scores, best: Scores) -> tuple[Stability, ...]:
    """Return the verdicts that are not excluded: paired by seed, a norm is tested against either share of the best."""
    if verdict is None:
        return ()
    verdicts: tuple[Stability, ...] = ("stable", "degraded", "collapsed")
    excluded: set[Stability] = set()
    for num_above, share in ((1, STABLE_FROM), (2, COLLAPSED_BELOW)):
        line = {seed: CHANCE + share * (accuracy - CHANCE) for seed, accuracy in best.items()}
        test = t_test(accuracies, line)
        p = test.p if test is not None and test.estimate.n >= MIN_SEEDS else None
        if test is None or p is None:
            return (verdict,)
        if p < 1 - CONFIDENCE:
            excluded.update(verdicts[num_above:] if test.estimate.mean > 0 else verdicts[:num_above])
    return tuple(one for one in verdicts if one not in excluded)


def _by_seed(runs: Sequence[RunRecord]) -> dict[int, float]:
    return {run.config.seed: run.summary.test_accuracy for run in runs if run.is_completed}


def _accuracies(runs: Sequence[RunRecord]) -> list[float]:
    return [run.summary.test_accuracy for run in runs if run.is_completed]


def _diverged(runs: Sequence[RunRecord]) -> int:
    return sum(run.status.state == "diverged" for run in runs)
