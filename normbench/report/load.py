"""Recorded runs for notebooks and for commands: rows, and tables in any format."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from normbench.errors import RunError, UnknownNameError
from normbench.report.build_table import comparison_tables
from normbench.report.formats import FORMATS
from normbench.report.grouping import flatten
from normbench.report.table import Table
from normbench.report.verdicts import MARGIN
from normbench.runs.records import (
    STATUS_FILE,
    ExperimentRecord,
    RunRecord,
    find_runs,
    read_experiment,
    read_run,
)


def load_experiments(path: Path | str) -> list[ExperimentRecord]:
    """Read what is recorded at `path`: one run, one experiment, or a folder of experiments.

    Raises:
        RunError: there are no runs that can be read.
    """
    folder = Path(path)
    if (folder / STATUS_FILE).exists():
        return [ExperimentRecord(folder, (read_run(folder),))]
    experiments = sorted({run.parent for run in find_runs(folder, "**")})
    if not experiments:
        raise RunError(f"{folder}: {'no runs there' if folder.is_dir() else 'no such folder'}")
    return [read_experiment(experiment) for experiment in experiments]


def load_runs(path: Path | str) -> list[dict[str, Any]]:
    """Return a flat row for each run at `path`, the same keys in each, ready for ``pandas.DataFrame(rows)``.

    Keys: experiment, run, norm, label, seed, state, reason; the configuration by dotted path (``train.batch_size``);
    the summary (``test_accuracy``, ``epoch_seconds``, ...), None where the run is not completed; and the environment as
    ``environment.torch`` and so on. A run that cannot be read is left out with a warning.

        rows = normbench.load_runs("runs/tutorial")
        pd.DataFrame(rows).query("state == 'completed'").groupby("label")["test_accuracy"].agg(["mean", "std", "count"])

    Raises:
        RunError: there are no runs that can be read.
    """
    experiments = load_experiments(path)
    for text in (text for experiment in experiments for text in experiment.unreadable):
        warnings.warn(text, stacklevel=2)
    rows = [_row(experiment, run) for experiment in experiments for run in (*experiment.runs, *experiment.probes)]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return [{key: row.get(key) for key in keys} for row in rows]


def _row(experiment: ExperimentRecord, run: RunRecord) -> dict[str, Any]:
    summary = run.summary.model_dump() if run.summary and run.status.state == "completed" else {}
    return {
        "experiment": experiment.name,
        "run": run.run_id,
        "norm": run.config.norm.name,
        "label": run.config.label,
        "seed": run.config.seed,
        "state": run.status.state,
        "reason": run.status.reason,
        **summary,
        **flatten(run.config.model_dump(exclude={"norm": {"name", "label", "train"}, "seed": True})),
        **flatten(run.environment, "environment."),
    }


def load_tables(paths: Sequence[Path], *, baseline: str | None = None, margin: float = MARGIN) -> list[Table]:
    """Return the comparison tables of all experiments at `paths`.

    Raises:
        RunError: there are no runs that can be read.
        UnknownNameError: `baseline` is given and an experiment has no run of that norm.
    """
    experiments = [experiment for path in paths for experiment in load_experiments(path)]
    return [
        table for experiment in experiments for table in comparison_tables(experiment, baseline=baseline, margin=margin)
    ]


def format_tables(tables: Sequence[Table], name: str) -> str:
    """Write tables in the format called `name`, a key of `FORMATS`.

    Raises:
        UnknownNameError: there is no such format.
    """
    if name not in FORMATS:
        raise UnknownNameError("format", name, FORMATS)
    return FORMATS[name](tables)
