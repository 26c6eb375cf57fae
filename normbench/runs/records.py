"""What a run leaves on disk, for every task: the row types, the file names, and how to read a folder back.

    runs/<experiment>/
      experiment.yaml            the resolved experiment
      <norm>-<model>-bs64-s0-<hash8>/
        config.yaml              the task's run config: everything that decides the outcome
        environment.json         versions, device, commit, argv
        metrics.jsonl            one EpochRow a line, appended; only of tasks with epochs
        steps.csv                step and losses (Task.loss_columns): one line a training step
        status.json              Status
        summary.json             the task's summary, written last
        loss_curve.png, table.md
        samples.npz, model.pt    style transfer: images for the report, and the network
      timing.json                Timing: norms' steps timed against each other (timing_file.py)
      report/                    tables and figures over all runs

Nothing here needs torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import ValidationError

from normbench.config.load import task_name
from normbench.errors import RunError
from normbench.runs.timing_file import Timing, read_timing
from normbench.tasks import TASKS, Task
from normbench.tasks.task import SAMPLES_FILE, EpochRow, Row

EXPERIMENT_FILE = "experiment.yaml"
CONFIG_FILE = "config.yaml"
ENVIRONMENT_FILE = "environment.json"
METRICS_FILE = "metrics.jsonl"
STEPS_FILE = "steps.csv"
STATUS_FILE = "status.json"
SUMMARY_FILE = "summary.json"
CHECKPOINT_FILE = "checkpoint.pt"
ERROR_FILE = "error.txt"
REPORT_FOLDER = "report"
OLD_STEPS_FILE = "losses.csv"
"""The name that `STEPS_FILE` had in runs of style transfer before they shared it."""

State = Literal["running", "completed", "diverged", "failed", "interrupted"]


class Status(Row):
    """Where a run stands. Times are UTC, ISO 8601."""

    state: State
    reason: str | None = None
    """Why a run diverged, failed or was interrupted, in a sentence."""
    started_at: str
    ended_at: str | None = None
    pid: int


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One run as read from its folder; what is not there yet is None or empty."""

    folder: Path
    config: Any
    """The task's run config (`Task.run_config`)."""
    status: Status
    epochs: tuple[EpochRow, ...]
    step_losses: NDArray[np.float64]
    """Losses of each training step in order, ``(steps, len(task.loss_columns))``; the first is what is minimized."""
    summary: Any
    """The task's summary (`Task.summary`), or None."""
    environment: Mapping[str, Any]

    @property
    def run_id(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def total_losses(self) -> NDArray[np.float64]:
        """The loss that was minimized, of each step, ``(steps,)``."""
        return self.step_losses[:, 0]

    @property
    def task(self) -> Task:
        """The task that the run is of."""
        return TASKS[self.config.task]

    @property
    def is_completed(self) -> bool:
        """Whether the run ended with a result."""
        return self.status.state == "completed" and self.summary is not None


@dataclass(frozen=True)
class ExperimentRecord:
    """All runs of one experiment folder, in the order of the experiment's norms, then seeds."""

    folder: Path
    runs: tuple[RunRecord, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What experiment.yaml says (norms, seeds, baseline, ...); empty where it is not recorded."""
    probes: tuple[RunRecord, ...] = ()
    """Runs that are no part of the comparison: those whose config names a probe."""
    timing: Timing = field(default_factory=Timing)
    """What the norms' steps took when they were timed against each other."""
    unreadable: tuple[str, ...] = ()
    """What is there and cannot be understood, a line each."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name


def find_runs(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the run folders that match `pattern` under `folder`, by name."""
    return sorted(path.parent for path in folder.glob(f"{pattern}/{STATUS_FILE}"))


def read_run(folder: Path) -> RunRecord:
    """Read one run folder, finished or not.

    Raises:
        RunError: a file that every run has is missing or cannot be understood.
    """
    try:
        recorded = _load_yaml(folder / CONFIG_FILE)
        task = TASKS[task_name(recorded)]
        config: Any = task.run_config.model_validate(recorded)
        status = Status.model_validate_json((folder / STATUS_FILE).read_text(encoding="utf-8"))
        summary_file = folder / SUMMARY_FILE
        summary = task.summary.model_validate_json(summary_file.read_text("utf-8")) if summary_file.exists() else None
        environment_file = folder / ENVIRONMENT_FILE
        environment = json.loads(environment_file.read_text(encoding="utf-8")) if environment_file.exists() else {}
        epochs, losses = _read_epochs(folder / METRICS_FILE), _read_steps(folder, len(task.loss_columns))
        return RunRecord(folder, config, status, epochs, losses, summary, environment)
    except (OSError, ValidationError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise RunError(f"{folder}: not a readable run folder: {error}") from error


def read_experiment(folder: Path) -> ExperimentRecord:
    """Read all run folders under `folder`; what cannot be understood is named in `unreadable`.

    Raises:
        RunError: there is none that can be understood.
    """
    run_folders = find_runs(folder)
    if not run_folders:
        raise RunError(f"{folder}: no runs there (a run folder holds {CONFIG_FILE} and {STATUS_FILE})")
    runs, timing, unreadable = [], Timing(), []
    for path in run_folders:
        try:
            runs.append(read_run(path))
        except RunError as error:
            unreadable.append(_in_a_line(error))
    if not runs:
        raise RunError(unreadable[0])
    try:
        timing = read_timing(folder)
    except RunError as error:
        unreadable.append(_in_a_line(error))
    settings = read_settings(folder)
    order = {norm.get("label") or norm["name"]: position for position, norm in enumerate(settings.get("norms", []))}
    runs.sort(key=lambda run: (order.get(run.config.label, len(order)), run.config.seed, run.run_id))
    probes = tuple(run for run in runs if getattr(run.config, "probe", None) is not None)
    compared = tuple(run for run in runs if run not in probes)
    return ExperimentRecord(folder, compared, settings, probes, timing, tuple(unreadable))


def _in_a_line(error: RunError) -> str:
    """Return the first sentence, without the details that pydantic and YAML add in further lines."""
    return " ".join(str(error).splitlines()[0].split())


def _load_yaml(path: Path) -> Any:
    """Parse a file by libyaml where PyYAML has it: ten times faster, which a thousand runs notice."""
    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)


def read_settings(experiment_folder: Path) -> dict[str, Any]:
    """Return an experiment's resolved settings; empty where they are not recorded.

    Raises:
        RunError: they cannot be read.
    """
    experiment_file = experiment_folder / EXPERIMENT_FILE
    if not experiment_file.exists():
        return {}
    try:
        settings = _load_yaml(experiment_file)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"{experiment_file}: cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise RunError(f"{experiment_file}: not a mapping of settings")
    return settings


def _read_epochs(path: Path) -> tuple[EpochRow, ...]:
    """Read the rows, leaving out a last line that a killed process cut off."""
    if not path.exists():
        return ()
    text = path.read_text(encoding="utf-8")
    complete = text[: text.rfind("\n") + 1]
    return tuple(EpochRow.model_validate_json(line) for line in complete.splitlines() if line)


def _read_steps(folder: Path, num_losses: int) -> NDArray[np.float64]:
    """Read the losses, ``(steps, num_losses)``, leaving out a last line that a killed process cut off."""
    path = folder / STEPS_FILE if (folder / STEPS_FILE).exists() else folder / OLD_STEPS_FILE
    if not path.exists():
        return np.empty((0, num_losses))
    text = path.read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].splitlines()[1:]
    rows = [[float(cell) for cell in line.split(",")[1:]] for line in lines]
    return np.array(rows, dtype=np.float64).reshape(-1, num_losses)


def read_samples(run_folder: Path) -> Mapping[str, NDArray[np.uint8]]:
    """Return the images that a run kept for its report, by name; none where it kept none or they cannot be read."""
    try:
        with np.load(run_folder / SAMPLES_FILE, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, BadZipFile):
        return {}
