"""Takes the baseline's runs of another experiment, often somebody else's, into one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from normbench.config.schema import DEFAULT_BASELINE, BaseRunConfig
from normbench.errors import ConfigError
from normbench.experiment.plan import RunPlan
from normbench.report.grouping import flatten
from normbench.report.recorded_runs import load_experiments
from normbench.runs.copies import copy_provenance, read_records, write_run
from normbench.runs.records import RunRecord, is_run
from normbench.runs.writer import folder_errors


def adopt_baseline(source: Path, folder: Path, plans: Sequence[RunPlan], baseline: str | None) -> list[str]:
    """Copy the completed runs of the baseline that `source` has into the experiment's `folder`; return their ids.

    They are those whose settings are the plans', but for norm and seed. A run that is there already is left as it is.

    Raises:
        ConfigError: `source` has no such run; the message names the setting that differs.
        FolderError: the folder cannot be written.
        RunError: `source` cannot be read.
    """
    wanted = baseline or DEFAULT_BASELINE
    found = [
        (experiment.folder, run)
        for experiment in load_experiments(source)
        for run in experiment.runs
        if run.is_completed and wanted in (run.config.norm.name, run.config.label)
    ]
    if not found:
        raise ConfigError(f"--baseline-from {source}: no completed run of {wanted} there")
    settings = [_settings(plan.config) for plan in plans]
    fitting = [(place, run) for place, run in found if _settings(run.config) in settings]
    if not fitting:
        raise ConfigError(f"--baseline-from {source}: {_difference(found[0][1], settings)}")
    with folder_errors(folder):
        for place, run in fitting:
            target = folder / run.folder.name
            if not is_run(target):
                records = read_records(run.folder)
                write_run(records, target)
                copy_provenance(records, place, folder)
    return [run.run_id for _, run in fitting]


def _settings(config: BaseRunConfig) -> dict[str, Any]:
    return flatten(config.model_dump(mode="json", exclude={"norm", "seed"}))


def _difference(run: RunRecord, settings: Sequence[dict[str, Any]]) -> str:
    """Say in which settings a run differs from the plan that is most like it."""
    own = _settings(run.config)
    differing = min(([key for key in own if own[key] != planned.get(key)] for planned in settings), key=len)
    planned = next(p for p in settings if [key for key in own if own[key] != p.get(key)] == differing)
    listed = "; ".join(f"{key} is {own[key]} there and {planned.get(key)} here" for key in differing[:3])
    return f"its runs of {run.config.label} have other settings: {listed}"
