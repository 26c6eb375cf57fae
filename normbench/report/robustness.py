"""The chapter on robustness: errors on corrupted test images, with statistics as trained and of the batch."""

from __future__ import annotations

from collections.abc import Sequence

from normbench.report.chapters import Chapter, Grid
from normbench.report.evaluations import estimate_text, evaluated, evaluations
from normbench.report.grouping import Group, Section
from normbench.runs.evaluation_file import Corruptions
from normbench.runs.records import ExperimentRecord

GENERATED = (
    "Corruptions in the style of CIFAR-10-C, drawn on the device from a seed: the same kinds and strengths, not the "
    "official files; frost is drawn, not photographed (docs/evaluation.md)."
)
OFFICIAL = "The official files of CIFAR-10-C or CIFAR-100-C (Hendrycks & Dietterich 2019)."


def robustness(experiment: ExperimentRecord, sections: Sequence[Section]) -> Chapter | None:
    """Return the chapter on robustness; None where no run was tried on corrupted images."""
    from normbench.report.evaluation_figures import corruption_figures

    sources = dict.fromkeys(entry.source for _, group, _ in evaluated(sections) for entry in corrupted(group))
    if not sources:
        return None
    texts = {"generated": GENERATED, "official": OFFICIAL}
    return Chapter(
        anchor="robustness",
        title="Robustness to corruptions",
        text=tuple(texts[source] for source in sources),
        figures=tuple(corruption_figures(sections)),
        grids=robustness_grids(sections),
    )


def robustness_grids(sections: Sequence[Section]) -> tuple[Grid, ...]:
    """Return the table of the chapter; none where no run was tried on corrupted images."""
    return (corruption_grid(sections),) if any(corrupted(group) for _, group, _ in evaluated(sections)) else ()


def corrupted(group: Group) -> list[Corruptions]:
    """Return the results on corrupted images of the group's completed runs."""
    return [entry.corruptions for entry in evaluations(group) if entry.corruptions is not None]


def corruption_grid(sections: Sequence[Section]) -> Grid:
    """Return each norm's error on clean and on corrupted images."""
    rows = []
    for _, group, name in evaluated(sections):
        found = [entry for entry in evaluations(group) if entry.corruptions is not None]
        if not found:
            continue
        pairs = [(entry, entry.corruptions) for entry in found if entry.corruptions is not None]
        adapted = [corruptions.mean_adapted_error for _, corruptions in pairs]
        rows.append(
            (
                name,
                estimate_text([1 - entry.accuracy for entry, _ in pairs], 100, 2),
                estimate_text([corruptions.mean_error for _, corruptions in pairs], 100, 2),
                estimate_text(adapted, 100, 2),
                estimate_text([corruptions.mean_error - 1 + entry.accuracy for entry, corruptions in pairs], 100, 2),
            )
        )
    headers = ("norm", "clean error (%)", "mean corruption error (%)", "adapted (%)", "corrupted - clean (points)")
    caption = (
        "Mean corruption error: over 15 kinds and 5 severities, not divided by another network's. Adapted: each batch "
        "of 500 corrupted images is normalized as in training, by its own statistics; -: the norm has no others. "
        "Mean ± half the 95 % Student-t interval over seeds."
    )
    return Grid("Mean corruption error", headers, tuple(rows), caption)
