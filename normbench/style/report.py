"""The report of a style-transfer experiment, from its files alone: one page, a table of raw numbers, figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from normbench.report.figure_style import save_figure
from normbench.report.formats import escape_markdown, markdown_grid
from normbench.report.html import render_page
from normbench.runs.atomic import write_text_atomically
from normbench.runs.records import REPORT_FOLDER, ExperimentRecord, read_experiment, read_run
from normbench.style.figures import loss_figure, picture_grid
from normbench.style.groups import find_baseline, style_groups
from normbench.style.page import Grid, StyleMeasured, StylePage, make_style_page, measure_groups

TEMPLATE = "style.html.j2"


def write_style_report(experiment_folder: Path, *, baseline: str | None = None) -> list[Path]:
    """Write the report over all style-transfer runs under `experiment_folder`, and return its paths.

    Raises:
        RunError: there are no runs, or one cannot be read.
        UnknownNameError: `baseline` is given and no run has that norm.
    """
    experiment = read_experiment(experiment_folder)
    page = make_style_page(experiment, baseline=baseline)
    folder = experiment_folder / REPORT_FOLDER
    folder.mkdir(exist_ok=True)
    texts = {
        "report.html": render_page(TEMPLATE, page, page.figures, package="style"),
        "report.md": page_to_markdown(page),
        "table.csv": to_csv(measure_groups(style_groups(experiment), find_baseline(experiment, baseline))),
    }
    for name, text in texts.items():
        write_text_atomically(folder / name, text)
    figures = [path for entry in page.figures for path in save_figure(entry.figure, folder / entry.name)]
    return [*(folder / name for name in texts), *figures]


def write_style_run_report(run_folder: Path) -> list[Path]:
    """Write ``loss_curve.png`` and, of a completed run, ``pictures.png`` into a run's folder, and return their paths.

    Raises:
        RunError: the run cannot be read.
    """
    run = read_run(run_folder)
    groups = style_groups(ExperimentRecord(run_folder.parent, (run,), {}))
    paths = save_figure(loss_figure(groups), run_folder / "loss_curve", (".png",))
    if groups[0].completed:
        paths += save_figure(picture_grid(groups), run_folder / "pictures", (".png",))
    return paths


def page_to_markdown(page: StylePage) -> str:
    """Return the report; figures are linked as ``<name>.png`` in the same folder."""
    lines = [f"# {escape_markdown(page.title)}", "", escape_markdown(page.opening), ""]
    lines += [*_bullets([*page.answers, *([page.unfinished] if page.unfinished else [])])]
    lines += ["## Results", "", *_grid(page.results)]
    if page.tests is not None:
        lines += ["## Tests", "", *_grid(page.tests)]
    for figure in page.figures:
        lines += [f"## {figure.title}", "", f"![{figure.title}]({figure.name}.png)", "", figure.caption, ""]
    lines += ["## Cost", "", *_grid(page.cost)]
    if page.failures:
        lines += ["## Runs without a result", "", *_bullets(page.failures)]
    lines += ["## How it was measured", "", *_bullets([f"{name}: {value}" for name, value in page.measured])]
    return "\n".join(lines)


def _grid(grid: Grid) -> list[str]:
    cells = [[escape_markdown(cell) for cell in row] for row in (grid.headers, *grid.rows)]
    return [markdown_grid(cells, grid.aligns), "", escape_markdown(grid.caption), ""]


def _bullets(texts: Sequence[str]) -> list[str]:
    return [*(f"- {escape_markdown(text)}" for text in texts), ""]


def to_csv(found: Sequence[StyleMeasured]) -> str:
    """Return raw numbers: a line for each measure of each norm, with its difference to the baseline."""
    rows = [_record(entry) for entry in found]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _record(entry: StyleMeasured) -> dict[str, Any]:
    estimate = entry.estimate
    difference = entry.comparison.difference if entry.comparison else None
    return {
        "measure": entry.measure.name,
        "norm": entry.group.norm,
        "label": entry.group.label,
        "mean": estimate.mean if estimate else None,
        "low": estimate.low if estimate else None,
        "high": estimate.high if estimate else None,
        "std": estimate.std if estimate else None,
        "num_completed": len(entry.group.completed),
        "num_planned": entry.group.num_planned,
        "is_baseline": entry.is_baseline,
        "difference": difference.estimate.mean if difference else None,
        "difference_low": difference.estimate.low if difference else None,
        "difference_high": difference.estimate.high if difference else None,
        "num_pairs": difference.estimate.n if difference else None,
        "cohens_dz": difference.cohens_dz if difference else None,
        "t_p": difference.t_p if difference else None,
        "holm_p": entry.comparison.holm_p if entry.comparison else None,
        "sign_flip_p": difference.sign_flip_p if difference else None,
        "verdict": entry.verdict,
        "best_rank": entry.rank[0] if entry.rank else None,
        "worst_rank": entry.rank[1] if entry.rank else None,
    }
