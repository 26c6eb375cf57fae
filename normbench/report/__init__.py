"""Reports: functions from recorded runs to tables and figures, the same for every task. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from normbench.report.columns import format_estimate
from normbench.report.drawing import Draw, draw_figures
from normbench.report.figure_style import save_figure
from normbench.report.formats import markdown_grid, to_csv, to_json, to_latex, to_markdown, to_narrow_latex
from normbench.report.grouping import flatten
from normbench.report.html import report_to_html
from normbench.report.markdown import report_to_markdown
from normbench.report.page import Report
from normbench.report.stats import summarize
from normbench.report.task_report import task_report
from normbench.runs.atomic import write_bytes_atomically, write_text_atomically
from normbench.runs.records import REPORT_FOLDER, RUN_TABLE_FILE, RunRecord, read_experiment, read_run

__all__ = ["Report", "load_libraries", "report_texts", "write_report", "write_report_of", "write_run_report"]

_LIBRARIES = (
    "jinja2",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_pdf",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "scipy.special",
)


def load_libraries() -> None:
    """Import the libraries of a report, which takes a second: for a moment in which there is nothing else to do."""
    for name in _LIBRARIES:
        import_module(name)


def write_report(experiment_folder: Path, *, baseline: str | None = None, margin: float | None = None) -> list[Path]:
    """Write tables, figures and the page over all runs recorded under `experiment_folder`, and return their paths.

    Unfinished, failed and diverged runs are shown as what they are; nothing is trained and nothing else is changed.
    `margin` is the difference, for example 0.005 in accuracy, below which norms count as equivalent.

    Raises:
        RunError: there are no runs that can be read.
        UnknownNameError: `baseline` is given and no run has that norm.
    """
    return write_report_of(Report(read_experiment(experiment_folder), baseline, margin))


def report_texts(
    report: Report, *, is_beside_runs: bool = False, svgs: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the pages and tables of `report` by the names of their files.

    With `is_beside_runs`, for a folder in that of the experiment, the page links to the runs. `svgs` are the elements
    of its figures by name; where they are not given, the figures are drawn.

    Raises:
        UnknownNameError: the report's baseline is given and no run has that norm.
    """
    return {
        "report.html": report_to_html(report, ".." if is_beside_runs else None, svgs=svgs),
        "report.md": report_to_markdown(report),
        "table.md": to_markdown(report.tables),
        "table.csv": to_csv(report.tables),
        "table.tex": to_latex(report.tables),
        "table_narrow.tex": to_narrow_latex(report.tables),
        "table.json": to_json(report.tables),
    }


def write_report_of(report: Report, folder: Path | None = None, draw: Draw = draw_figures) -> list[Path]:
    """Write the tables, figures and pages of `report` into `folder`, and return their paths.

    Without `folder`, it is one in that of the experiment.

    Raises:
        UnknownNameError: the report's baseline is given and no run has that norm.
    """
    drawn = dict(zip((entry.name for entry in report.figures), draw(report.figures), strict=True))
    svgs = {name: figure.svg for name, figure in drawn.items()}
    texts = report_texts(report, is_beside_runs=folder is None, svgs=svgs)
    contents = {name + suffix: data for name, figure in drawn.items() for suffix, data in figure.files.items()}
    folder = folder or report.experiment.folder / REPORT_FOLDER
    folder.mkdir(exist_ok=True, parents=True)
    for name, text in texts.items():
        write_text_atomically(folder / name, text)
    for name, data in contents.items():
        write_bytes_atomically(folder / name, data)
    return [folder / name for name in (*texts, *contents)]


def write_run_report(run_folder: Path) -> list[Path]:
    """Write the figures of one run (``loss_curve.png``, ...) and ``table.md`` into its folder, and return their paths.

    Raises:
        RunError: the run cannot be read.
    """
    run = read_run(run_folder)
    figures = task_report(run.task).run_figures(run)
    paths = [path for name, figure in figures.items() for path in save_figure(figure, run_folder / name, (".png",))]
    table = run_folder / RUN_TABLE_FILE
    write_text_atomically(table, _run_table(run))
    return [*paths, table]


def _run_table(run: RunRecord) -> str:
    """Write one run's epochs, or its results if its task has none, as a Markdown table, with its state above."""
    lines = [f"# {run.run_id}", "", f"{run.status.state}" + (f": {run.status.reason}" if run.status.reason else "")]
    if flatten(run.config.model_dump()).get(task_report(run.task).images_field) == "synthetic":
        lines += ["", "Synthetic images, not CIFAR-10."]
    rows = _epoch_cells(run) if run.task.has_epochs else _result_cells(run)
    return "\n".join([*lines, "", markdown_grid(rows, ["right"] * len(rows[0])), ""])


def _epoch_cells(run: RunRecord) -> list[Sequence[str]]:
    beside = f", up to {run.runs_at_once} runs at once" if run.runs_at_once > 1 else ""
    rows: list[Sequence[str]] = [
        ("epoch", "train loss", "train accuracy (%)", "test loss", "test accuracy (%)", f"train time (s){beside}")
    ]
    for epoch in run.epochs:
        rows.append(
            (
                str(epoch.epoch),
                f"{epoch.train_loss:.4f}",
                f"{100 * epoch.train_accuracy:.2f}",
                f"{epoch.test_loss:.4f}",
                f"{100 * epoch.test_accuracy:.2f}",
                f"{epoch.train_seconds:.3f}",
            )
        )
    return rows


def _result_cells(run: RunRecord) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("measure", "unit", "result")]
    for measure in run.task.measures:
        value = measure.of(run.summary) if run.is_completed else None
        estimate = summarize([] if value is None else [value])
        rows.append((measure.header, measure.unit, format_estimate(estimate, measure)))
    return rows
