"""Reports: pure functions from recorded runs to tables and figures. Needs no torch."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from normbench.report.figure_style import save_figure
from normbench.report.formats import to_csv, to_json, to_latex, to_markdown
from normbench.report.markdown import page_to_markdown
from normbench.report.page import make_page
from normbench.report.verdicts import MARGIN
from normbench.runs.atomic import write_text_atomically
from normbench.runs.records import (
    REPORT_FOLDER,
    ExperimentRecord,
    RunRecord,
    read_experiment,
    read_run,
)

__all__ = ["load_libraries", "write_report", "write_report_of", "write_run_report"]

_LIBRARIES = (
    "jinja2",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_pdf",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "scipy.special",
)


def load_libraries() -> None:
    """Import what reports need, which takes a second: for a moment in which there is nothing else to do."""
    for name in _LIBRARIES:
        import_module(name)


def write_report(experiment_folder: Path, *, baseline: str | None = None, margin: float = MARGIN) -> list[Path]:
    """Write tables, figures and the page over all runs recorded under `experiment_folder`, and return their paths.

    Unfinished, failed and diverged runs are shown as what they are; nothing is trained and nothing else is changed.
    `margin` is the difference in accuracy, as a fraction, below which norms count as equivalent.

    Raises:
        RunError: there are no runs that can be read.
        UnknownNameError: `baseline` is given and no run has that norm.
    """
    return write_report_of(read_experiment(experiment_folder), baseline=baseline, margin=margin)


def write_report_of(experiment: ExperimentRecord, *, baseline: str | None = None, margin: float = MARGIN) -> list[Path]:
    """Do what `write_report` does for an experiment that is read already.

    Raises:
        UnknownNameError: `baseline` is given and no run has that norm.
    """
    from normbench.report.html import page_to_html

    page = make_page(experiment, baseline=baseline, margin=margin)
    tables = [part.table for part in page.tables]
    folder = experiment.folder / REPORT_FOLDER
    folder.mkdir(exist_ok=True)
    texts = {
        "report.html": page_to_html(page),
        "report.md": page_to_markdown(page),
        "table.md": to_markdown(tables),
        "table.csv": to_csv(tables),
        "table.tex": to_latex(tables),
        "table.json": to_json(tables),
    }
    for name, text in texts.items():
        write_text_atomically(folder / name, text)
    figures = [path for entry in page.figures for path in save_figure(entry.figure, folder / entry.name)]
    return [*(folder / name for name in texts), *figures]


def write_run_report(run_folder: Path) -> list[Path]:
    """Write ``loss_curve.png`` and ``table.md`` into one run's folder, and return their paths.

    Raises:
        RunError: the run cannot be read.
    """
    from normbench.report.curves import run_loss_curve

    run = read_run(run_folder)
    table = run_folder / "table.md"
    write_text_atomically(table, _run_table(run))
    return [*save_figure(run_loss_curve(run), run_folder / "loss_curve", (".png",)), table]


def _run_table(run: RunRecord) -> str:
    """Write one run's epochs as a Markdown table, with its state above."""
    header = "| epoch | train loss | train accuracy (%) | test loss | test accuracy (%) | train time (s) |"
    lines = [f"# {run.run_id}", "", f"{run.status.state}" + (f": {run.status.reason}" if run.status.reason else "")]
    if run.config.dataset.name == "synthetic":
        lines += ["", "Synthetic images, not CIFAR-10."]
    lines += ["", header, "|" + "|".join("-" * (len(cell) - 1) + ":" for cell in header.split("|")[1:-1]) + "|"]
    widths = [len(cell) - 2 for cell in header.split("|")[1:-1]]
    for epoch in run.epochs:
        cells = [
            str(epoch.epoch),
            f"{epoch.train_loss:.4f}",
            f"{100 * epoch.train_accuracy:.2f}",
            f"{epoch.test_loss:.4f}",
            f"{100 * epoch.test_accuracy:.2f}",
            f"{epoch.train_seconds:.3f}",
        ]
        lines.append("| " + " | ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)) + " |")
    return "\n".join(lines) + "\n"
