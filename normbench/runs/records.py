"""The records that a run leaves on disk, for every task: row types, file names, and how to read a folder back.

    runs/<experiment>/
      experiment.yaml            the resolved experiment
      <norm>-<model>-bs64-s0-<hash8>/
        config.yaml              the task's run config: everything that decides the outcome
        environment.json         versions, device, commit, argv
        metrics.jsonl            one EpochRow a line, appended; only of tasks with epochs
        evaluation.json          Evaluation, of classifiers, if asked for (evaluation_file.py)
        steps.csv                step and losses (Task.loss_columns): one line a training step
        probes/<name>.jsonl      what a probe measured, a row a line (probe_files.py); where the config asks for it
        status.json              Status
        summary.json             the task's summary, written last
        loss_curve.png, table.md
        samples.npz, model.pt    style transfer: images for the report, and the network
      timing.json                Timing: norms' steps timed against each other (timing_file.py)
      looks.json                 RecordedLooks: after how many seeds verdicts were looked at (looks_file.py)
      tuning.json                Tuning: the trials of each norm's learning rate (tuning_file.py)
      report/                    tables and figures over all runs

Nothing here needs torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, ConfigDict, Field, ValidationError

from normbench.config.load import task_name
from normbench.config.schema import AnalysisConfig
from normbench.errors import RunError, shown
from normbench.runs.alive import is_being_written
from normbench.runs.bundle_file import exists, find_bundle, is_member
from normbench.runs.evaluation_file import Evaluation, read_evaluation
from normbench.runs.looks_file import RecordedLooks, read_looks
from normbench.runs.probe_files import ProbeRow, read_probes
from normbench.runs.regular_files import damaged
from normbench.runs.timing_file import Timing, read_timing
from normbench.runs.tuning_file import Tuning, read_tuning
from normbench.runs.untrusted import Model, checked, describe_problem, read_bytes, read_json, read_pictures, read_yaml
from normbench.tasks import TASKS, Task
from normbench.tasks.task import LARGEST_LOSS, SAMPLES_FILE, EpochRow, Row

EXPERIMENT_FILE = "experiment.yaml"
CONFIG_FILE = "config.yaml"
ENVIRONMENT_FILE = "environment.json"
METRICS_FILE = "metrics.jsonl"
STEPS_FILE = "steps.csv"
STATUS_FILE = "status.json"
SUMMARY_FILE = "summary.json"
CHECKPOINT_FILE = "checkpoint.pt"
ERROR_FILE = "error.txt"
RUN_TABLE_FILE = "table.md"
"""A run's epochs or results, for reading; the last file of its own report."""
LOCK_FILE = ".lock"
REPORT_FOLDER = "report"
OLD_STEPS_FILE = "losses.csv"
"""The name that `STEPS_FILE` had in runs of style transfer before they shared it."""

_MAX_BYTES = 2**20
"""The most bytes of `status.json`, `summary.json` and `environment.json`."""
_MAX_ROWS_BYTES = 128 * 2**20
"""The most bytes of `metrics.jsonl` and `steps.csv`: nine million steps."""
_MAX_FACTS = 1000
_MAX_AT_ONCE = 2**31

State = Literal["running", "completed", "diverged", "failed", "interrupted"]


def _iso_time(text: str) -> str:
    if not 1970 < datetime.fromisoformat(text).year < 3000:
        raise ValueError("not a time of a run")
    return text


Time = Annotated[str, AfterValidator(_iso_time)]
"""UTC, ISO 8601."""


class Status(Row):
    """Where a run stands. Times are UTC, ISO 8601."""

    state: State
    reason: str | None = None
    """Why a run diverged, failed or was interrupted, in a sentence."""
    started_at: Time
    ended_at: Time | None = None
    pid: Annotated[int, Field(ge=0, lt=2**31)]


class _Norm(Row):
    """One of the norms in `experiment.yaml`, as far as reports look at it."""

    model_config = ConfigDict(extra="allow")
    name: str
    label: str | None = None
    train: Mapping[str, Any] | None = None


class _Settings(Row):
    """The part of `experiment.yaml` that reports look at."""

    model_config = ConfigDict(extra="allow")
    norms: tuple[_Norm, ...] = ()
    seeds: tuple[int, ...] = ()
    grid: Mapping[str, tuple[Any, ...]] | None = None
    baseline: str | None = None
    analysis: AnalysisConfig | None = None


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
    probe_rows: Mapping[str, tuple[ProbeRow, ...]] = field(default_factory=dict)
    """What each probe measured, by its name."""
    unreadable: tuple[str, ...] = ()
    """Records that the run can do without and that cannot be understood, a line each."""
    evaluation: Evaluation | None = None
    """What was measured of the trained network beside its result."""

    @property
    def run_id(self) -> str:
        """The folder's name, as it can be printed."""
        return shown(self.folder.name)

    @property
    def total_losses(self) -> NDArray[np.float64]:
        """The loss that was minimized, of each step, ``(steps,)``."""
        return self.step_losses[:, 0]

    @property
    def task(self) -> Task:
        """The task that the run is of."""
        return TASKS[self.config.task]

    @property
    def runs_at_once(self) -> int:
        """How many runs its process trained at once, at most; if several, its times are not its own."""
        return int(self.environment.get("concurrent_runs", 1))

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
    """The settings in experiment.yaml (norms, seeds, baseline, ...); empty where they are not recorded."""
    probes: tuple[RunRecord, ...] = ()
    """Runs that are no part of the comparison: those whose config names a probe."""
    timing: Timing = field(default_factory=Timing)
    """The times of the norms' steps, measured against each other."""
    looks: RecordedLooks = field(default_factory=RecordedLooks)
    """After how many seeds the verdicts were looked at."""
    tuning: Tuning = field(default_factory=Tuning)
    """The trials by which each norm's own learning rate was chosen."""
    unreadable: tuple[str, ...] = ()
    """The records that are there and cannot be understood, a line each."""

    @property
    def name(self) -> str:
        """The folder's name, as it can be printed."""
        return shown(self.folder.name)


def find_runs(folder: Path, pattern: Literal["*", "**"] = "*") -> list[Path]:
    """Return the run folders in `folder` (``*``) or anywhere below it (``**``), by name; it may be a bundle.

    Raises:
        RunError: the folder cannot be looked through.
    """
    if place := find_bundle(folder):
        return place.bundle.folders_with(STATUS_FILE, place.name, is_deep=pattern == "**")
    try:
        found = {path.parent for path in folder.glob(f"{pattern}/{STATUS_FILE}")}
    except (OSError, ValueError) as error:
        raise damaged(folder, getattr(error, "strerror", None) or str(error)) from None
    return sorted(found)


def is_run(folder: Path) -> bool:
    """Return whether `folder` is that of a run."""
    status = folder / STATUS_FILE
    return os.path.exists(status) or is_member(status)


def read_status(folder: Path) -> Status:
    """Read where a run stands; one that says "running" and whose process is gone is interrupted.

    Raises:
        RunError: that cannot be understood.
    """
    status = _validated(Status, folder / STATUS_FILE)
    is_ended = status.state != "running"
    if is_ended or (find_bundle(folder) is None and is_being_written(folder / LOCK_FILE, status.pid)):
        return status
    return status.model_copy(update={"state": "interrupted", "reason": "its process ended before the run"})


def read_run(folder: Path) -> RunRecord:
    """Read one run folder, finished or not.

    Raises:
        RunError: a file that every run has is missing, or one cannot be understood.
    """
    try:
        recorded = read_yaml(folder / CONFIG_FILE)
        if not isinstance(recorded, dict) or task_name(recorded) not in TASKS:
            raise damaged(folder / CONFIG_FILE, "not the config of a run")
        task = TASKS[task_name(recorded)]
        config: Any = checked(task.run_config, recorded, folder / CONFIG_FILE)
        status = read_status(folder)
        summary = _validated(task.summary, folder / SUMMARY_FILE) if exists(folder / SUMMARY_FILE) else None
        if status.state == "completed" and summary is None:
            raise damaged(folder / SUMMARY_FILE, "missing, though the run is completed")
        environment = _read_environment(folder / ENVIRONMENT_FILE)
        epochs, losses = _read_epochs(folder / METRICS_FILE), _read_steps(folder, len(task.loss_columns))
        probe_rows, problems = read_probes(folder)
        return RunRecord(
            folder,
            config,
            status,
            epochs,
            losses,
            summary,
            environment,
            probe_rows,
            tuple(problems),
            read_evaluation(folder),
        )
    except RunError as error:
        raise RunError(f"{folder}: not a readable run folder: {error}") from None


def read_experiment(folder: Path) -> ExperimentRecord:
    """Read all run folders under `folder`; what cannot be understood is named in `unreadable`.

    Raises:
        RunError: there is none that can be understood.
    """
    run_folders = find_runs(folder)
    if not run_folders:
        raise RunError(f"{folder}: no runs there (a run folder holds {CONFIG_FILE} and {STATUS_FILE})")
    runs, timing, looks, tuning = [], Timing(), RecordedLooks(), Tuning()
    settings, unreadable = {}, []
    for path in run_folders:
        try:
            run = read_run(path)
        except RunError as error:
            unreadable.append(str(error))
            continue
        runs.append(run)
        unreadable += run.unreadable
    if not runs:
        raise RunError(unreadable[0])
    try:
        tuning = read_tuning(folder)
    except RunError as error:
        unreadable.append(str(error))
    try:
        looks = read_looks(folder)
    except RunError as error:
        unreadable.append(str(error))
    try:
        timing = read_timing(folder)
    except RunError as error:
        unreadable.append(str(error))
    try:
        settings = read_settings(folder)
    except RunError as error:
        unreadable.append(str(error))
    order = {norm["label"] or norm["name"]: position for position, norm in enumerate(settings.get("norms", ()))}
    runs.sort(key=lambda run: (order.get(run.config.label, len(order)), run.config.seed, run.run_id))
    probes = tuple(run for run in runs if getattr(run.config, "probe", None) is not None)
    compared = tuple(run for run in runs if run not in probes)
    return ExperimentRecord(folder, compared, settings, probes, timing, looks, tuning, tuple(unreadable))


def read_settings(experiment_folder: Path) -> dict[str, Any]:
    """Return an experiment's resolved settings; empty where they are not recorded.

    Raises:
        RunError: they cannot be read.
    """
    path = experiment_folder / EXPERIMENT_FILE
    if not exists(path):
        return {}
    return checked(_Settings, read_yaml(path), path).model_dump()


def _validated(model: type[Model], path: Path) -> Model:
    """Return what a JSON file says, as a `model`."""
    return checked(model, read_json(path, _MAX_BYTES), path)


def _read_environment(path: Path) -> Mapping[str, Any]:
    """Return what a run ran on; empty where it ended before it recorded that."""
    if not exists(path):
        return {}
    facts = read_json(path, _MAX_BYTES)
    if not isinstance(facts, dict) or len(facts) > _MAX_FACTS:
        raise damaged(path, f"not a mapping of at most {_MAX_FACTS:,} facts")
    if not isinstance(facts.get("norm_path"), str | None):
        raise damaged(path, "norm_path: not a text")
    at_once = facts.get("concurrent_runs", 1)
    if type(at_once) is not int or not 1 <= at_once <= _MAX_AT_ONCE:
        raise damaged(path, f"concurrent_runs: not a whole number from 1 to {_MAX_AT_ONCE:,}")
    return facts


def _complete_lines(path: Path) -> bytes:
    """Return the lines of a file, leaving out a last one that a killed process cut off; none where it is missing."""
    content = read_bytes(path, _MAX_ROWS_BYTES) if exists(path) else b""
    return content[: content.rfind(b"\n") + 1]


def _read_epochs(path: Path) -> tuple[EpochRow, ...]:
    """Read the rows, epoch by epoch."""
    lines = [line for line in _complete_lines(path).splitlines() if line]
    try:
        rows = tuple(EpochRow.model_validate_json(line) for line in lines)
    except ValidationError as error:
        raise damaged(path, describe_problem(error)) from None
    if any(row.epoch != number for number, row in enumerate(rows, 1)):
        raise damaged(path, "its epochs are not 1, 2, 3, ...")
    if any(after.num_steps < before.num_steps for before, after in pairwise(rows)):
        raise damaged(path, "steps become fewer from epoch to epoch")
    return rows


def _read_steps(folder: Path, num_losses: int) -> NDArray[np.float64]:
    """Read the losses, ``(steps, num_losses)``."""
    path = folder / STEPS_FILE if exists(folder / STEPS_FILE) else folder / OLD_STEPS_FILE
    rows = _complete_lines(path).partition(b"\n")[2]
    if not rows.strip():
        return np.empty((0, num_losses))
    try:
        table = np.loadtxt(BytesIO(rows), delimiter=",", comments=None, ndmin=2, encoding="ascii")
    except ValueError as error:
        raise damaged(path, str(error)) from None
    losses = table[:, 1:]
    if losses.shape[1] != num_losses or (table[:, 0] != np.arange(len(table))).any():
        raise damaged(path, f"not a number and {num_losses} losses for each step")
    if (np.isfinite(losses) & (np.abs(losses) > LARGEST_LOSS)).any():
        raise damaged(path, "a loss larger than any can be")
    return losses


def read_samples(run_folder: Path) -> Mapping[str, NDArray[np.uint8]]:
    """Return the images that a run kept for its report, by name; none where it kept none or they cannot be read.

    ``content`` and ``stylized``, ``(N, H, W, 3)``, and ``style``, ``(H, W, 3)``.
    """
    try:
        found = read_pictures(run_folder / SAMPLES_FILE)
    except RunError:
        return {}
    shapes = [found[name].shape for name in ("content", "stylized", "style") if name in found]
    are_pictures = len(shapes) == 3 and [len(shape) for shape in shapes] == [4, 4, 3]
    same_number = are_pictures and shapes[0][0] == shapes[1][0]
    return found if same_number and all(min(shape) and shape[-1] == 3 for shape in shapes) else {}
