"""Reports: pure functions from recorded runs to tables and figures. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from normbench.records import REPORT_FOLDER, RunRecord, read_experiment, read_run, write_text_atomically
from normbench.report.figures import panels, save_figure
from normbench.report.formats import to_csv, to_json, to_latex, to_markdown
from normbench.report.groups import sections
from normbench.report.tables import comparison_tables

__all__ = ["write_report", "write_run_report"]


def write_report(experiment_folder: Path, *, baseline: str | None = None) -> list[Path]:
    """Write tables and figures over all runs recorded under `experiment_folder`, and return their paths.

    Unfinished, failed and diverged runs are shown as what they are; nothing is trained and nothing else is changed.

    Raises:
        RunError: there are no runs, or one cannot be read.
        UnknownNameError: `baseline` is given and no run has that norm.
    """
    from normbench.report.plots import accuracy_curves, loss_curves

    experiment = read_experiment(experiment_folder)
    tables = comparison_tables(experiment, baseline=baseline)
    folder = experiment_folder / REPORT_FOLDER
    folder.mkdir(exist_ok=True)
    paths = []
    for name, write in (("md", to_markdown), ("csv", to_csv), ("tex", to_latex), ("json", to_json)):
        paths.append(folder / f"table.{name}")
        write_text_atomically(paths[-1], write(tables))
    shown = panels(sections(experiment, baseline))
    paths += save_figure(loss_curves(shown), folder / "loss_curves")
    paths += save_figure(accuracy_curves(shown), folder / "accuracy")
    return paths


def write_run_report(run_folder: Path) -> list[Path]:
    """Write ``loss_curve.png`` and ``table.md`` into one run's folder, and return their paths.

    Raises:
        RunError: the run cannot be read.
    """
    from normbench.report.plots import run_loss_curve

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
