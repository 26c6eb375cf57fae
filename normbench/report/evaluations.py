"""The chapter on evaluation: more than accuracy, where the norms' statistics come from, and norms image by image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, median

import numpy as np

from normbench.report.captions import describe_setting
from normbench.report.chapters import Chapter, Grid
from normbench.report.grouping import Group, Section
from normbench.report.stats import summarize
from normbench.report.task_report import PageFigure
from normbench.report.verdicts import holm
from normbench.runs.evaluation_file import NUM_BINS, Evaluation, Statistics, Weights
from normbench.runs.records import ExperimentRecord, RunRecord

NOTHING = "-"
_MAX_CLASSES_SHOWN = 20
_INTERVAL = "Mean ± half the 95 % Student-t interval over seeds."


@dataclass(frozen=True)
class Source:
    """Where norms take their statistics from."""

    header: str
    statistics: Statistics
    batch_size: int | None = None


@dataclass(frozen=True)
class PairedImages:
    """Two networks of one seed on the same images."""

    only_baseline: int
    """Images that only the baseline's network classifies correctly."""
    only_norm: int
    """Images that only the norm's network classifies correctly."""

    @property
    def p(self) -> float:
        """The two-sided p of McNemar's exact test: whether the two kinds of images are equally frequent."""
        from scipy.special import bdtr

        fewer, total = min(self.only_baseline, self.only_norm), self.only_baseline + self.only_norm
        return min(1.0, 2 * float(bdtr(fewer, total, 0.5))) if total else 1.0


def evaluation(experiment: ExperimentRecord, sections: Sequence[Section]) -> Chapter | None:
    """Return the chapter on evaluation; None where no run was evaluated."""
    from normbench.report.evaluation_figures import confusion_figures, statistics_figures

    if not any(evaluations(group) for section in sections for group in section.groups):
        return None
    figures: list[PageFigure] = [*statistics_figures(sections), *confusion_figures(sections)]
    return Chapter(
        anchor="evaluation",
        title="Evaluation",
        text=(_described(sections),),
        figures=tuple(figures),
        grids=evaluation_grids(sections),
    )


def evaluation_grids(sections: Sequence[Section]) -> tuple[Grid, ...]:
    """Return the tables of the chapter."""
    grids = (
        quality_grid(sections),
        statistics_grid(sections),
        averaged_grid(sections),
        class_grid(sections),
        *paired_grids(sections),
    )
    return tuple(grid for grid in grids if grid is not None)


def evaluations(group: Group) -> list[Evaluation]:
    """Return the evaluations of the group's completed runs."""
    return [run.evaluation for run in group.completed if run.evaluation is not None]


def evaluated(sections: Sequence[Section]) -> Iterator[tuple[Section, Group, str]]:
    """Yield the groups that were evaluated, each with its section and how a row calls it."""
    for section in sections:
        for groups in section.by_setting:
            for group in groups:
                if evaluations(group):
                    yield section, group, ", ".join(filter(None, [group.label, describe_setting(group.setting)]))


def estimate_text(values: Sequence[float | None], scale: float, digits: int) -> str:
    """Write mean and half width of the interval of those values that were measured, and how many if not all were."""
    found = [value for value in values if value is not None and np.isfinite(value)]
    estimate = summarize(found)
    if estimate is None:
        return NOTHING
    mean = f"{scale * estimate.mean:.{digits}f}"
    few = "" if len(found) == len(values) else f" (n={len(found)})"
    return f"{mean}{few}" if estimate.half_width is None else f"{mean} ± {scale * estimate.half_width:.{digits}f}{few}"


def quality_grid(sections: Sequence[Section]) -> Grid:
    """Return accuracy, loss, calibration and generalization gap of each norm."""
    columns: tuple[tuple[str, Callable[[Evaluation], float | None], float, int], ...] = (
        ("test accuracy (%)", lambda e: e.accuracy, 100, 2),
        *_views_columns(sections),
        ("NLL (nats)", lambda e: e.loss, 1, 3),
        ("ECE (%)", lambda e: e.calibration_error, 100, 2),
        ("train accuracy (%)", lambda e: e.train.accuracy, 100, 2),
        ("train - test (points)", lambda e: e.train_test_gap, 100, 2),
    )
    rows = tuple(
        (name, *(estimate_text(list(map(of, evaluations(group))), scale, digits) for _, of, scale, digits in columns))
        for _, group, name in evaluated(sections)
    )
    caption = (
        f"{_INTERVAL} NLL: mean negative log-likelihood of the labels. ECE: expected calibration error over {NUM_BINS} "
        "bins of equal width. Train accuracy: in evaluation mode, without augmentation, over at most 10,000 images."
        + (_VIEWS if _views_columns(sections) else "")
    )
    return Grid("More than accuracy", ("norm", *(header for header, *_ in columns)), rows, caption)


_VIEWS = (
    " Views: logits averaged over each image and its mirror image and, of 6, over both shifted by a pixel; the other "
    "columns are of the images alone."
)


def _views_columns(sections: Sequence[Section]) -> list[tuple[str, Callable[[Evaluation], float | None], float, int]]:
    """Return a column for each number of views that any run was evaluated with."""
    results = [e.views for _, group, _ in evaluated(sections) for e in evaluations(group) if e.views is not None]

    def accuracy(entry: Evaluation, num_views: int) -> float | None:
        return entry.views.accuracy if entry.views is not None and entry.views.num_views == num_views else None

    numbers = sorted({result.num_views for result in results})
    return [(f"{number} views (%)", partial(accuracy, num_views=number), 100, 2) for number in numbers]


def sources(sections: Sequence[Section]) -> list[Source]:
    """Return the sources of statistics that any run was evaluated with, those of small batches first."""
    results = {
        (row.statistics, row.batch_size)
        for _, group, _ in evaluated(sections)
        for entry in evaluations(group)
        for row in entry.statistics
        if row.weights == "last"
    }
    sizes = sorted({size for statistics, size in results if statistics == "batch" and size is not None})
    found = [Source(f"batch of {size}", "batch", size) for size in sizes]
    if results:
        found.append(Source("running", "running"))
    if ("re-estimated", None) in results:
        found.append(Source("re-estimated", "re-estimated"))
    return found


def accuracy_with(entry: Evaluation, source: Source) -> float | None:
    """Return the accuracy with statistics from `source`; a network that has but one result has it for all of them."""
    if source.statistics == "running":
        return entry.accuracy
    return entry.with_statistics(source.statistics, source.batch_size, "last")


def statistics_grid(sections: Sequence[Section]) -> Grid | None:
    """Return each norm's accuracy by the source of its statistics; None where none has another."""
    found = sources(sections)
    if len(found) < 2:
        return None
    rows = tuple(
        (
            name,
            *(estimate_text([accuracy_with(e, source) for e in evaluations(group)], 100, 2) for source in found),
        )
        for _, group, name in evaluated(sections)
    )
    caption = (
        f"Test accuracy (%). {_INTERVAL} Batch of n: in training mode on batches of n test images (n = 1: the first "
        "2,000). Running: evaluation mode. Re-estimated: running statistics averaged anew over training images without "
        f"augmentation. {NOTHING}: neither the mode nor the batch changes what such a network says of an image, or the "
        "norm keeps no averages."
    )
    return Grid("Where the statistics come from", ("norm", *(source.header for source in found)), rows, caption)


def averaged_grid(sections: Sequence[Section]) -> Grid | None:
    """Return each norm's accuracy with averaged weights beside that with the last; None where none were averaged."""
    found = [(name, averaged) for _, group, name in evaluated(sections) if (averaged := _averaged(group))]
    if not found:
        return None
    columns = _averaged_columns()
    rows = tuple(
        (name, *(estimate_text([of(entry) for entry in entries], 100, 2) for _, of in columns))
        for name, entries in found
    )
    counts = " or ".join(map(str, sorted({entry.num_averaged for _, entries in found for entry in entries})))
    caption = (
        f"Test accuracy with the weights after the last epoch, and with their mean over the ends of the last {counts} "
        "epochs: first with the running statistics of the last epoch, then with statistics re-estimated for the "
        f"weights in question. {_INTERVAL} Differences are within a run. {NOTHING}: nothing to re-estimate."
    )
    return Grid("Averaged weights", ("norm", *(header for header, _ in columns)), rows, caption)


def _averaged(group: Group) -> list[Evaluation]:
    return [entry for entry in evaluations(group) if entry.num_averaged]


def _averaged_columns() -> list[tuple[str, Callable[[Evaluation], float | None]]]:
    """Return headers and values: both weights and their difference, with either kind of statistics."""
    prefixes: tuple[tuple[str, Statistics], ...] = (("", "running"), ("re-estimated: ", "re-estimated"))
    columns: list[tuple[str, Callable[[Evaluation], float | None]]] = []
    for prefix, statistics in prefixes:
        columns += [
            (f"{prefix}last (%)", partial(_with_weights, statistics=statistics, weights="last")),
            (f"{prefix}averaged (%)", partial(_with_weights, statistics=statistics, weights="average")),
            (f"{prefix}averaged - last (points)", partial(_gain, statistics=statistics)),
        ]
    return columns


def _with_weights(entry: Evaluation, statistics: Statistics, weights: Weights) -> float | None:
    if (statistics, weights) == ("running", "last"):  # which networks without statistics have too
        return entry.accuracy
    return entry.with_statistics(statistics, None, weights)


def _gain(entry: Evaluation, statistics: Statistics) -> float | None:
    last, average = _with_weights(entry, statistics, "last"), _with_weights(entry, statistics, "average")
    return None if last is None or average is None else average - last


def class_grid(sections: Sequence[Section]) -> Grid | None:
    """Return each norm's accuracy by class; None where classes are many, or not the same everywhere.

    The norms, or the classes if there are more of them, have a row each.
    """
    names = {entry.class_names for _, group, _ in evaluated(sections) for entry in evaluations(group)}
    if len(names) != 1 or len(next(iter(names))) > _MAX_CLASSES_SHOWN:
        return None
    (classes,) = names
    lines = [("norm", *classes)]
    for _, group, name in evaluated(sections):
        lines.append((name, *(estimate_text(list(column), 100, 1) for column in zip(*_by_class(group), strict=True))))
    if len(lines) <= len(classes):
        lines = list(zip(("class", *classes), *lines[1:], strict=True))
    return Grid("Accuracy by class", lines[0], tuple(lines[1:]), f"Test accuracy (%) within each class. {_INTERVAL}")


def _by_class(group: Group) -> list[list[float]]:
    return [entry.class_accuracies.tolist() for entry in evaluations(group)]


def paired_images(norm: RunRecord, baseline: RunRecord) -> PairedImages | None:
    """Return two runs of one seed image by image; None where they were evaluated on other images."""
    left, right = norm.evaluation, baseline.evaluation
    if left is None or right is None or left.num_images != right.num_images:
        return None
    sizes = [[sum(row) for row in entry.confusion] for entry in (left, right)]
    if sizes[0] != sizes[1] or _images(norm) != _images(baseline):
        return None
    of_norm, of_baseline = left.hit_bits.astype(bool), right.hit_bits.astype(bool)
    return PairedImages(int((of_baseline & ~of_norm).sum()), int((of_norm & ~of_baseline).sum()))


def _images(run: RunRecord) -> object:
    return run.environment.get("dataset_sha256")


def paired_grids(sections: Sequence[Section]) -> Iterator[Grid]:
    """Yield for every setting with a baseline how the others' networks differ from its own, image by image."""
    for section in sections:
        for groups in section.by_setting:
            base = next((group for group in groups if group.label == section.baseline), None)
            if base is None:
                continue
            found = {group.label: _pairs(group, base) for group in groups if group is not base}
            found = {label: pairs for label, pairs in found.items() if pairs}
            if found:
                setting = describe_setting(groups[0].setting)
                yield _paired_grid(found, f"{base.label}{f', {setting}' if setting else ''}", base.label)


def _pairs(group: Group, base: Group) -> dict[int, PairedImages]:
    by_seed = {run.config.seed: run for run in base.completed}
    runs = {run.config.seed: run for run in group.completed if run.config.seed in by_seed}
    found = {seed: paired_images(run, by_seed[seed]) for seed, run in runs.items()}
    return {seed: pair for seed, pair in found.items() if pair is not None}


def _paired_grid(found: dict[str, dict[int, PairedImages]], title: str, baseline: str) -> Grid:
    adjusted: dict[str, list[float]] = {label: [] for label in found}
    for seed in sorted({seed for pairs in found.values() for seed in pairs}):
        labels = [label for label, pairs in found.items() if seed in pairs]
        for label, p in zip(labels, holm([found[label][seed].p for label in labels]), strict=True):
            adjusted[label].append(p)
    rows = []
    for label, pairs in found.items():
        values = adjusted[label]
        leads = [
            pair.only_norm - pair.only_baseline for p, pair in zip(values, pairs.values(), strict=True) if p < 0.05
        ]
        rows.append(
            (
                label,
                f"{fmean(pair.only_baseline for pair in pairs.values()):.0f}",
                f"{fmean(pair.only_norm for pair in pairs.values()):.0f}",
                _p_text(median(values)),
                f"{sum(lead > 0 for lead in leads)}/{len(values)}",
                f"{sum(lead < 0 for lead in leads)}/{len(values)}",
            )
        )
    headers = ("norm", f"only {baseline} right", "only the norm right", "p, median", "ahead", "behind")
    caption = (
        "Test images that one of two networks of the same seed classifies correctly and the other does not, means over "
        "seeds. p: McNemar's exact test within a seed, Holm-adjusted over the norms; ahead and behind: seeds with "
        "p < 0.05. The test is about two trained networks; how far other seeds would differ, the comparison of means "
        "above says."
    )
    return Grid(f"Image by image, against {title}", headers, tuple(rows), caption)


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _on(facts: Mapping[str, str | None]) -> Iterator[str]:
    for name, value in facts.items():
        if value:
            yield f"torch {value}" if name == "torch" else value


def _described(sections: Sequence[Section]) -> str:
    every = [entry for _, group, _ in evaluated(sections) for entry in evaluations(group)]
    splits = {"test": "test images", "val": "validation images"}
    images = " or ".join(dict.fromkeys(f"{entry.num_images:,} {splits[entry.split]}" for entry in every))
    where = dict.fromkeys(", ".join(_on(entry.measured_on)) for entry in every)
    counts = sorted({entry.num_averaged for entry in every if entry.num_averaged})
    averaged = ""
    if counts:
        averaged = f" Averaged weights: the mean over the ends of the last {' or '.join(map(str, counts))} epochs."
    return f"Each trained network on {images}. Measured on {'; '.join(where)}.{averaged}"
