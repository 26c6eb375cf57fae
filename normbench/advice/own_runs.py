"""Results of norms in the user's own runs of classifiers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from normbench.report.captions import describe_setting
from normbench.report.grouping import sections
from normbench.runs.records import read_experiment
from normbench.tasks.classification import TEST_ACCURACY


@dataclass(frozen=True)
class NormResult:
    """The completed runs of one norm under one setting."""

    experiment: str
    setting: str
    """The rest that differs between runs of the experiment: ``batch size 8``; empty if nothing does."""
    device: str
    label: str
    norm: str
    mean_test_accuracy: float
    """Accuracy after the last epoch, a fraction from 0 to 1."""
    standard_deviation: float | None
    """Standard deviation between seeds; None for a single run."""
    num_runs: int


def own_results(folder: Path) -> tuple[NormResult, ...]:
    """Read an experiment's runs; the norms of each setting come best first.

    Raises:
        RunError: there are no runs, or one cannot be read.
    """
    experiment = read_experiment(folder)
    results = []
    classifiers = [section for section in sections(experiment) if TEST_ACCURACY in section.task.measures]
    for section in classifiers:
        for groups in section.by_setting:
            found = []
            for group in groups:
                accuracies = list(group.scores(TEST_ACCURACY).values())
                if accuracies:
                    found.append(
                        NormResult(
                            experiment=experiment.name,
                            setting=describe_setting(group.setting),
                            device=section.environment.get("device_name", section.environment["device"]),
                            label=group.label,
                            norm=group.norm,
                            mean_test_accuracy=fmean(accuracies),
                            standard_deviation=stdev(accuracies) if len(accuracies) > 1 else None,
                            num_runs=len(accuracies),
                        )
                    )
            results += sorted(found, key=lambda result: -result.mean_test_accuracy)
    return tuple(results)
