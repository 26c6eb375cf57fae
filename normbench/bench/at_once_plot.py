"""The picture of trainings at once: how many epochs an hour a device trains with one, and with several."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normbench.bench.results import TrainResults, TrainRow, median
from normbench.report.figure_style import WIDTH, add_heading, figure_style, fix_layout, label_ends
from normbench.report.palette import COLORS, MARKERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_at_once(results: TrainResults) -> Figure | None:
    """Draw epochs per hour against trainings at once, a line per norm, variant and batch size; None for one number."""
    from matplotlib.figure import Figure

    lines: dict[tuple[str, str, int], list[TrainRow]] = {}
    for row in results.rows:
        if row.seconds_per_step:
            lines.setdefault((row.norm, row.variant, row.batch_size), []).append(row)
    lines = {key: rows for key, rows in lines.items() if len(rows) > 1}
    if not lines:
        return None
    with figure_style():
        figure = Figure(figsize=(WIDTH, 3.0))
        axes = figure.subplots()
        ends = []
        for position, (key, rows) in enumerate(lines.items()):
            color = COLORS[position % len(COLORS)]
            counts, epochs = [row.runs_at_once for row in rows], [epochs_per_hour(row) for row in rows]
            axes.plot(counts, epochs, color=color, marker=MARKERS[position % len(MARKERS)])
            ends.append((epochs[-1], _name(key, list(lines)), color))
        counts = sorted({row.runs_at_once for rows in lines.values() for row in rows})
        axes.set_xticks(counts)
        axes.set_xlim(0, counts[-1] * 1.02)
        # The room above is a share of the whole axis: that of the points alone may be less than a marker.
        axes.set_ylim(0, 1.08 * max(epochs_per_hour(row) for rows in lines.values() for row in rows))
        axes.set_xlabel("trainings at once")
        axes.set_ylabel("epochs per hour, training steps alone")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        label_ends(axes, ends)
        images = f"{results.settings['num_train']:,} images an epoch"
        add_heading(figure, f"{results.settings['model']}, {images}, {results.environment['device_name']}")
        return fix_layout(figure)


def epochs_per_hour(row: TrainRow) -> float:
    """Return how many epochs of such trainings the device trains in an hour, of all that run at once."""
    seconds = median(row.seconds_per_step)
    assert seconds is not None, "a case without a round has no place in a picture"
    return 3600 / (seconds * row.steps_per_epoch)


def _name(key: tuple[str, str, int], keys: list[tuple[str, str, int]]) -> str:
    """Return the parts of `key` in which the lines differ, the norm always."""
    norm, variant, batch_size = key
    parts = [norm]
    if len({other[1] for other in keys}) > 1:
        parts.append(variant)
    if len({other[2] for other in keys}) > 1:
        parts.append(f"batch {batch_size}")
    return ", ".join(parts)
