"""The result of `normbench.compare` and `normbench.train`: recorded runs as tables, rows, figures and a page."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normbench.errors import NormBenchError
from normbench.report import Report
from normbench.report.recorded_runs import format_tables, load_runs
from normbench.runs.records import REPORT_FOLDER, ExperimentRecord, read_experiment

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Comparison:
    """The outcome of an experiment; everything is read from its folder when it is first asked for."""

    folder: Path
    """The experiment's folder under the runs folder."""
    run_ids: tuple[str, ...]
    """The planned runs, by the names of their folders."""
    is_complete: bool
    """Whether every planned run has a result."""
    report_error: NormBenchError | None = None
    """Why the report on disk was not written, where it was not."""

    @cached_property
    def experiment(self) -> ExperimentRecord:
        """All runs recorded in the folder."""
        return read_experiment(self.folder)

    @cached_property
    def report(self) -> Report:
        """The report over these runs."""
        return Report(self.experiment)

    @property
    def report_path(self) -> Path:
        """The page with all tables and figures."""
        return self.folder / REPORT_FOLDER / "report.html"

    def rows(self) -> list[dict[str, Any]]:
        """Return a flat row for each recorded run, as `normbench.load_runs` does, ready for ``pandas.DataFrame``."""
        return load_runs(self.folder)

    def table(self, format: str = "text", *, baseline: str | None = None) -> str:
        """Return the comparison tables as text: ``text``, ``md``, ``latex``, ``csv``, ``tsv`` or ``json``.

        Raises:
            UnknownNameError: there is no such format, or no run of the baseline.
        """
        report = self.report if baseline is None else Report(self.experiment, baseline)
        return format_tables(report.tables, format)

    def figures(self) -> dict[str, Figure]:
        """Return the report's figures by name, such as ``loss_curves``; they show in a notebook as they are."""
        return {entry.name: entry.figure for entry in self.report.figures}

    def __str__(self) -> str:
        """Return the comparison tables as text."""
        return self.table()

    def _repr_html_(self) -> str:
        """Return the comparison tables as HTML, for notebooks."""
        from normbench.report.html import tables_to_html

        return tables_to_html(self.report.tables)
