"""Recorded runs for notebooks and for commands: rows, curves, and tables in any format."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normbench.errors import RunError, UnknownNameError
from normbench.report.comparison_table import Table
from normbench.report.formats import FORMATS
from normbench.report.grouping import flatten
from normbench.report.page import Report
from normbench.report.setting_results import analysis_of
from normbench.runs.bundle_file import find_bundle
from normbench.runs.records import ExperimentRecord, RunRecord, find_runs, is_run, read_experiment, read_run
from normbench.tasks.task import EpochRow

Tell = Callable[[str], object]
"""Is told in a line what was left out because it cannot be read."""


def load_experiments(path: Path | str, tell: Tell = warnings.warn) -> list[ExperimentRecord]:
    """Read what is recorded at `path`: one run, one experiment, a folder of experiments, or a bundle.

    Raises:
        RunError: there are no runs that can be read.
    """
    folder = Path(path)
    if is_run(folder):
        return [ExperimentRecord(folder, (read_run(folder),))]
    experiments = sorted({run.parent for run in find_runs(folder, "**")})
    if not experiments:
        is_there = os.path.isdir(folder) or find_bundle(folder) is not None
        what = "neither a folder nor a bundle" if os.path.isfile(folder) else "no such folder"
        raise RunError(f"{folder}: {'no runs there' if is_there else what}")
    return _readable(experiments, lambda experiment: [read_experiment(experiment)], tell)


def _readable(
    paths: Sequence[Path], read: Callable[[Path], list[ExperimentRecord]], tell: Tell
) -> list[ExperimentRecord]:
    """Return what can be read of `paths`; the error of the first where that is nothing."""
    found: list[ExperimentRecord] = []
    errors = []
    for path in paths:
        try:
            found += read(path)
        except RunError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    for problem in errors:
        tell(str(problem))
    return found


def load_runs(path: Path | str) -> list[dict[str, Any]]:
    """Return a flat row for each run at `path`, the same keys in each, ready for ``pandas.DataFrame(rows)``.

    `path` is a run's folder, an experiment's, a folder of experiments, or a bundle (``tutorial.nbz``).

    Keys: experiment, run, folder, norm, label, seed, state, reason; the summary (``test_accuracy``, ``style_loss``,
    ...), None where the run is not completed; the configuration by dotted path (``task``, ``train.batch_size``); and
    the environment as ``environment.torch`` and so on. A run that cannot be read is left out with a warning.

        rows = normbench.load_runs("runs/tutorial")
        pd.DataFrame(rows).query("state == 'completed'").groupby("label")["test_accuracy"].agg(["mean", "std", "count"])

    Raises:
        RunError: there are no runs that can be read.
    """
    left_out: list[str] = []
    experiments = load_experiments(path, left_out.append)
    for text in (*left_out, *(text for experiment in experiments for text in experiment.unreadable)):
        warnings.warn(text, stacklevel=2)
    rows = [_row(experiment, run) for experiment in experiments for run in (*experiment.runs, *experiment.probes)]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return [{key: row.get(key) for key in keys} for row in rows]


def _row(experiment: ExperimentRecord, run: RunRecord) -> dict[str, Any]:
    return {
        "experiment": experiment.name,
        "run": run.run_id,
        "folder": str(run.folder),
        "norm": run.config.norm.name,
        "label": run.config.label,
        "seed": run.config.seed,
        "state": run.status.state,
        "reason": run.status.reason,
        **flatten(run.summary.model_dump() if run.is_completed else {}),
        **flatten(run.config.model_dump(exclude={"norm": {"name", "label", "train"}, "seed": True})),
        **flatten(run.environment, "environment."),
    }


def load_curves(run: Path | str | Mapping[str, Any]) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Return the losses of a run's steps and the metrics of its epochs, as columns of equal length.

    `run` is a run's folder, or its row of `load_runs`. ``steps`` holds ``step`` (1 is the first) and the task's losses:
    ``loss``, or for style transfer ``total``, ``content``, ``style`` and ``total_variation``. ``epochs`` holds
    ``epoch``, ``test_accuracy`` and so on; it is empty for a task without epochs.

        curves = normbench.load_curves(rows[0])
        pd.DataFrame(curves["steps"]).plot(x="step", y="loss")

    Raises:
        RunError: the run cannot be read.
    """
    record = read_run(run_folder(run))
    steps = {"step": np.arange(1.0, len(record.step_losses) + 1)}
    steps |= dict(zip(record.task.loss_columns, record.step_losses.T, strict=True))
    names = EpochRow.model_fields if record.task.has_epochs else ()
    epochs = {name: np.array([getattr(epoch, name) for epoch in record.epochs], np.float64) for name in names}
    return {"steps": steps, "epochs": epochs}


def run_folder(run: Path | str | Mapping[str, Any]) -> Path:
    """Return the folder of a run that is given by it, or by its row of `load_runs`."""
    return Path(run["folder"] if isinstance(run, Mapping) else run)


def load_tables(
    paths: Sequence[Path],
    *,
    baseline: str | None = None,
    margin: float | None = None,
    analysis: Mapping[str, str] | None = None,
    tell: Tell = warnings.warn,
) -> list[Table]:
    """Return the comparison tables of all experiments at `paths`.

    Raises:
        RunError: there are no runs that can be read.
        UnknownNameError: `baseline` is given and an experiment has no run of that norm.
    """
    experiments = _readable(paths, lambda path: load_experiments(path, tell), tell)
    return [
        table
        for experiment in experiments
        for table in Report(experiment, baseline, margin, analysis_of(experiment, analysis)).tables
    ]


def format_tables(tables: Sequence[Table], name: str) -> str:
    """Write tables in the format called `name`, a key of `FORMATS`.

    Raises:
        UnknownNameError: there is no such format.
    """
    if name not in FORMATS:
        raise UnknownNameError("format", name, FORMATS)
    return FORMATS[name](tables)
