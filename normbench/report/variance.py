"""The chapter on spread: what makes runs of one norm differ, and how much of it is that the test images are few."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from normbench.config.schema import SourceOfVariance
from normbench.report.captions import describe_setting
from normbench.report.chapters import Chapter, Grid
from normbench.report.grouping import Group, Section, flatten
from normbench.report.stats import CONFIDENCE, t_quantile
from normbench.runs.records import ExperimentRecord, RunRecord
from normbench.tasks.classification import TEST_ACCURACY

_NOTHING = "-"
_MIN_RUNS = 3


@dataclass(frozen=True)
class Crossed:
    """Runs by images of one number: a two-way analysis of variance with random effects and one value a cell."""

    mean: float
    std_of_runs: float
    """Of the runs' means over the images."""
    image_share: float
    """How much of that variance is there only because the images are no more than these."""
    half_width: float
    """Of the 95 % interval of the mean for new runs on new images."""


def crossed(values: NDArray[np.float64]) -> Crossed:
    """Analyse ``(runs, images)``; the degrees of freedom of the interval are Satterthwaite's."""
    num_runs, num_images = values.shape
    of_runs, of_images, mean = values.mean(axis=1), values.mean(axis=0), float(values.mean())
    rest = values - of_runs[:, None] - of_images + mean
    squares = np.array([num_images * np.var(of_runs, ddof=1), num_runs * np.var(of_images, ddof=1), 0.0])
    degrees = np.array([num_runs - 1, num_images - 1, (num_runs - 1) * (num_images - 1)])
    squares[2] = (rest**2).sum() / degrees[2]
    total = max(float(squares[0] + squares[1] - squares[2]), float(squares[:2].max()))
    freedom = total**2 / float((squares**2 / degrees).sum())
    half_width = t_quantile(CONFIDENCE, freedom) * np.sqrt(total / (num_runs * num_images))
    share = min(1.0, float(squares[2] / squares[0])) if squares[0] > 0 else 0.0
    return Crossed(mean, float(np.std(of_runs, ddof=1)), share, float(half_width))


def variance_chapter(experiment: ExperimentRecord, sections: Sequence[Section]) -> Chapter | None:
    """Return the chapter on spread; None where neither sources were varied alone nor images recorded."""
    grids = [grid for grid in (_sources(experiment, sections), _images(sections)) if grid is not None]
    if not grids:
        return None
    return Chapter("spread", "Where the spread comes from", grids=tuple(grids))


def _sources(experiment: ExperimentRecord, sections: Sequence[Section]) -> Grid | None:
    probes = [run for run in experiment.probes if getattr(run.config, "probe", None) == "variance" and run.is_completed]
    if not probes:
        return None
    sources = get_args(SourceOfVariance)
    rows = []
    for name, group in _named(sections):
        own = _key(group.runs[0])
        alike = [run for run in probes if _key(run) == own]
        cells = [_std_text([run.summary.test_accuracy for run in group.completed])]
        for source in sources:
            varied = [run for run in alike if source not in run.config.held]
            firsts = {seed for run in varied for seed in run.config.held.values()}
            runs = [*varied, *(run for run in group.completed if run.config.seed in firsts)]
            cells.append(_std_text([run.summary.test_accuracy for run in runs] if varied else []))
        if alike:
            rows.append((name, *cells))
    caption = (
        "Standard deviation of the test accuracy over runs in which everything differs, and over runs in which one "
        "thing alone does, all else being as with the first seed; with its 95 % interval (chi-square) and the number "
        "of runs."
    )
    headers = ("norm", "everything (points)", *(f"{source} alone" for source in sources))
    return Grid("Sources of variance", headers, tuple(rows), caption) if rows else None


def _images(sections: Sequence[Section]) -> Grid | None:
    rows = []
    for section in sections:
        for groups in section.by_setting:
            hits = {group.label: _hits(group) for group in groups}
            baseline = hits.get(section.baseline or "", {})
            for group in groups:
                own = hits[group.label]
                seeds = sorted(own.keys() & baseline.keys())
                if len(own) < _MIN_RUNS:
                    continue
                found = crossed(np.stack([own[seed] for seed in sorted(own)]))
                cells = [f"{100 * found.std_of_runs:.2f}", f"{100 * found.image_share:.0f}", _NOTHING, _NOTHING]
                if group.label != section.baseline and len(seeds) >= _MIN_RUNS:
                    difference = np.stack([own[seed] - baseline[seed] for seed in seeds])
                    of_both = crossed(difference)
                    over_seeds = t_quantile(CONFIDENCE, len(seeds) - 1) * of_both.std_of_runs / np.sqrt(len(seeds))
                    cells[2:] = [
                        f"{100 * of_both.mean:+.2f} ± {100 * over_seeds:.2f}",
                        f"{100 * of_both.mean:+.2f} ± {100 * of_both.half_width:.2f}",
                    ]
                rows.append((_name(group), *cells))
    if not rows:
        return None
    caption = (
        "The share is that of the variance over seeds which more test images would take away: networks err on images "
        "of their own, and there are only so many (two-way analysis of variance of hits, runs by images). The last "
        "column's interval is for new seeds on new images of the same kind, the one before it for new seeds on these."
    )
    headers = (
        "norm",
        "standard deviation over seeds (points)",
        "of it the test images' (%)",
        f"difference to {sections[0].baseline}",
        "with new images",
    )
    return Grid("The test images' part", headers, tuple(rows), caption)


def _named(sections: Sequence[Section]) -> Iterator[tuple[str, Group]]:
    for section in sections:
        for group in section.groups:
            yield _name(group), group


def _name(group: Group) -> str:
    return ", ".join(filter(None, [group.label, describe_setting(group.setting)]))


def _key(run: RunRecord) -> dict[str, Any]:
    """Return the settings of a run, less its seeds and its purpose."""
    left_out = {"task": True, "seed": True, "probe": True, "held": True, "probes": True, "norm": {"train", "label"}}
    return flatten(run.config.model_dump(exclude=left_out))


def _hits(group: Group) -> dict[int, NDArray[np.float64]]:
    """Return which images each run classified correctly, by seed; only of runs on equally many images."""
    found = {
        run.config.seed: run.evaluation.hit_bits.astype(np.float64)
        for run in group.completed
        if run.evaluation is not None
    }
    return found if len({len(hits) for hits in found.values()}) <= 1 else {}


def _std_text(accuracies: Sequence[float]) -> str:
    """Write a standard deviation in points with its interval: ``0.42 (0.25 to 1.20; 5)``."""
    from scipy.special import chdtri

    if len(accuracies) < _MIN_RUNS:
        return _NOTHING
    degrees, std = len(accuracies) - 1, TEST_ACCURACY.scale * float(np.std(accuracies, ddof=1))
    low, high = (
        std * np.sqrt(degrees / chdtri(degrees, tail)) for tail in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
    )
    return f"{std:.2f} ({low:.2f} to {high:.2f}; {len(accuracies)})"
