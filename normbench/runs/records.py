"""What a run leaves on disk: the row types, the file names, and how to read a folder back.

    runs/<experiment>/
      experiment.yaml            the resolved experiment
      <norm>-<model>-bs64-s0-<hash8>/
        config.yaml              RunConfig: everything that decides the outcome
        environment.json         versions, device, commit, argv
        metrics.jsonl            one EpochRow a line, appended
        steps.csv                step,loss: one line a training step
        status.json              Status
        summary.json             Summary, written last
        loss_curve.png, table.md
      timing.json                Timing: norms' steps timed against each other (timings.py)
      report/                    tables and figures over all runs

Nothing here needs torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from normbench.config.schema import RunConfig
from normbench.errors import RunError
from normbench.runs.timing_file import Timing, read_timing

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
STYLE_LOSSES_FILE = "losses.csv"
"""Only a style-transfer run has it; `normbench.style.records` says what else is in its folder."""

State = Literal["running", "completed", "diverged", "failed", "interrupted"]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class EpochRow(_Row):
    """One epoch. Losses are means over images, in nats; accuracies are fractions from 0 to 1."""

    epoch: int
    """1 for the first."""
    num_steps: int
    """Optimizer steps since the start of training."""
    train_loss: float
    train_accuracy: float
    """Over the training batches as they came, so of a network that was still changing."""
    test_loss: float
    test_accuracy: float
    train_seconds: float
    """Time of the training steps alone: no evaluation, compilation or warm-up."""
    test_seconds: float
    learning_rate: float
    """Of the epoch's last step."""


class Status(_Row):
    """Where a run stands. Times are UTC, ISO 8601."""

    state: State
    reason: str | None = None
    """Why a run diverged, failed or was interrupted, in a sentence."""
    started_at: str
    ended_at: str | None = None
    pid: int


class Summary(_Row):
    """The run's result. `test_*` are those of the last epoch, never of the best."""

    test_accuracy: float
    test_loss: float
    train_accuracy: float
    train_loss: float
    num_epochs: int
    num_steps: int
    num_parameters: int
    train_seconds: float
    epoch_seconds: float
    """Median over epochs of `EpochRow.train_seconds`."""
    startup_seconds: float
    """From the run's start to its first timed step: building, moving data, compilation, capture, warm-up."""
    peak_memory_mib: float | None
    """Peak memory that the run added to the resident data set: device memory, or the process's on a CPU."""
    images_per_second: float
    batch_statistics_accuracy: float | None = None
    """Of the probe at batch size 1: test accuracy with the statistics of each image alone, as in training."""


@dataclass(frozen=True)
class RunRecord:
    """One run as read from its folder; what is not there yet is None or empty."""

    folder: Path
    config: RunConfig
    status: Status
    epochs: tuple[EpochRow, ...]
    step_losses: NDArray[np.float64]
    """Loss of each training step in order."""
    summary: Summary | None
    environment: Mapping[str, Any]

    @property
    def run_id(self) -> str:
        """The folder's name."""
        return self.folder.name


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


def write_text_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text` so that a reader sees the old file or the new one, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def is_style_run(run_folder: Path) -> bool:
    """Return whether a run's folder is one of style transfer, which `read_run` cannot read."""
    return (run_folder / STYLE_LOSSES_FILE).exists()


def find_runs(folder: Path, pattern: str = "*", *, of_style: bool = False) -> list[Path]:
    """Return the run folders that match `pattern` under `folder`, by name: those of style transfer or all others."""
    found = (path.parent for path in folder.glob(f"{pattern}/{STATUS_FILE}"))
    return sorted(path for path in found if is_style_run(path) == of_style)


def read_run(folder: Path) -> RunRecord:
    """Read one run folder, finished or not.

    Raises:
        RunError: a file that every run has is missing or cannot be understood.
    """
    try:
        config = RunConfig.model_validate(_load_yaml(folder / CONFIG_FILE))
        status = Status.model_validate_json((folder / STATUS_FILE).read_text(encoding="utf-8"))
        summary_file = folder / SUMMARY_FILE
        summary = Summary.model_validate_json(summary_file.read_text("utf-8")) if summary_file.exists() else None
        environment_file = folder / ENVIRONMENT_FILE
        environment = json.loads(environment_file.read_text(encoding="utf-8")) if environment_file.exists() else {}
        return RunRecord(
            folder,
            config,
            status,
            _read_epochs(folder / METRICS_FILE),
            _read_steps(folder / STEPS_FILE),
            summary,
            environment,
        )
    except (OSError, ValidationError, ValueError, yaml.YAMLError) as error:
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
    compared = tuple(run for run in runs if run.config.probe is None)
    probes = tuple(run for run in runs if run.config.probe is not None)
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


def _read_steps(path: Path) -> NDArray[np.float64]:
    """Read the losses, leaving out a last line that a killed process cut off."""
    if not path.exists():
        return np.empty(0)
    text = path.read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].splitlines()[1:]
    return np.array([float(line.partition(",")[2]) for line in lines])
