"""The line above a figure that says what was trained: images, network, length, seeds."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from normbench.report.grouping import Group, Scalar
from normbench.report.task_report import describe_images, task_report


def heading(groups: Sequence[Group], num_seeds: int | None = None) -> str:
    """Return what all of `groups` share, as ``CIFAR-10, norm_resnet, 5 epochs at batch size 64, n = 5 seeds``.

    What differs between them is left out: panels or axes say it. `num_seeds` is the number of seeds where what is drawn
    rests on other runs than those of the groups.
    """
    if not groups:
        return ""
    task = groups[0].runs[0].task
    images = _shared(groups, task_report(task).images_field)
    model = _shared(groups, "model.name")
    parts = [
        None if images is None else describe_images(str(images)).rstrip(","),
        None if model is None else str(model),
        _length(groups),
        _seeds({len(group.completed) for group in groups} if num_seeds is None else {num_seeds}),
    ]
    return ", ".join(part for part in parts if part)


def _shared(groups: Sequence[Group], field: str) -> Scalar:
    """Return the value that all groups have in a field; None where there is none, or more than one."""
    values = {group.fields.get(field) for group in groups}
    return values.pop() if len(values) == 1 else None


def _length(groups: Sequence[Group]) -> str | None:
    epochs, steps, batch_size = (_shared(groups, f"train.{name}") for name in ("epochs", "steps", "batch_size"))
    length, unit = (epochs, "epoch") if epochs is not None else (steps, "step")
    if length is None:
        return None if batch_size is None else f"batch size {batch_size}"
    at = "" if batch_size is None else f" at batch size {batch_size}"
    return f"{length} {unit}{'' if length == 1 else 's'}{at}"


def _seeds(found: Collection[int]) -> str:
    counts = sorted(found)
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"n = {number} seed{'' if counts == [1] else 's'}"
