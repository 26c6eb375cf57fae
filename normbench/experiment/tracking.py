"""Training as it goes on, shown elsewhere: TensorBoard, Weights & Biases and MLflow, through one listener.

A tracker that cannot be opened is a user's problem before anything trains; one that fails later costs its own display
and nothing else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from normbench.errors import EnvironmentProblem, first_line
from normbench.experiment.plan import RunPlan
from normbench.experiment.progress import note
from normbench.experiment.runner import ExperimentEvent, RunEnded, RunProgressed, RunStarted
from normbench.report.grouping import flatten
from normbench.report.tensorboard import LiveFile, epoch_values, loss_tags, require_tensorboard
from normbench.runs.events import EpochDone, StepsDone
from normbench.tasks import TASKS

PROJECT = "normbench"
"""The project at Weights & Biases; WANDB_PROJECT in the environment names another."""


@dataclass(frozen=True)
class Point:
    """Values that were measured after a step, or after an epoch."""

    values: Mapping[str, float]
    """By tag, such as ``loss/step``."""
    step: int
    """Training steps done, from 1."""
    epoch: int | None
    """The epoch that is done; None for the losses of a step."""


class Sink(Protocol):
    """One run elsewhere."""

    def log(self, points: Sequence[Point]) -> None:
        """Add points."""

    def end(self, state: str, results: Mapping[str, float]) -> None:
        """Close the run: its state in NormBench's words, and the numbers of its summary."""


OpenSink = Callable[[RunPlan, Path], Sink]
"""Takes a run's plan and its folder."""


class Tracking:
    """A listener that passes what every run measures to a sink of its own."""

    def __init__(self, name: str, folder: Path, open_sink: OpenSink) -> None:
        self._name = name
        self._folder = folder
        self._open_sink = open_sink
        self._sinks: dict[str, Sink] = {}
        self._num_steps: dict[str, int] = {}

    def __call__(self, event: ExperimentEvent) -> None:
        """Pass on what `event` measured; after a failure the run is not followed any more."""
        if not isinstance(event, RunStarted | RunProgressed | RunEnded):
            return
        run_id = event.plan.run_id
        try:
            self._follow(event, run_id)
        except Exception as error:  # nothing that is shown elsewhere is worth a run
            self._sinks.pop(run_id, None)
            note(f"normbench: {self._name} does not follow {run_id} any more: {first_line(error)}")

    def _follow(self, event: RunStarted | RunProgressed | RunEnded, run_id: str) -> None:
        if isinstance(event, RunStarted):
            self._num_steps[run_id] = event.num_steps
            self._sinks[run_id] = self._open_sink(event.plan, self._folder / run_id)
        elif (sink := self._sinks.get(run_id)) is None:
            return
        elif isinstance(event, RunEnded):
            del self._sinks[run_id]
            sink.end(event.status.state, _numbers(event.summary))
        elif isinstance(event.event, StepsDone):
            tags = loss_tags(TASKS[event.plan.config.task])
            first = self._num_steps[run_id] + 1
            self._num_steps[run_id] += len(event.event.losses)
            losses = enumerate(event.event.losses, first)
            sink.log([Point(dict(zip(tags, values, strict=True)), step, None) for step, values in losses])
        elif isinstance(event.event, EpochDone):
            row = event.event.row
            sink.log([Point(epoch_values(row), self._num_steps[run_id], row.epoch)])


def open_trackers(
    folder: Path, *, tensorboard: bool = False, wandb: bool = False, mlflow: bool = False
) -> list[Tracking]:
    """Return a listener for each tracker that is asked for, over the experiment in `folder`.

    Raises:
        EnvironmentProblem: a package is not there.
    """
    found = []
    if tensorboard:
        require_tensorboard()
        found.append(Tracking("TensorBoard", folder, lambda plan, run: TensorBoardRun(run)))
    if wandb:
        _require("wandb")
        found.append(Tracking("Weights & Biases", folder, WandbRun))
    if mlflow:
        _require("mlflow")
        found.append(Tracking("MLflow", folder, MlflowRun))
    return found


class TensorBoardRun:
    """An event file that grows; begun anew with what is recorded of a run that goes on."""

    def __init__(self, run_folder: Path) -> None:
        self._file = LiveFile(run_folder)

    def log(self, points: Sequence[Point]) -> None:
        """Append; losses by step, the rest by epoch, as in the files that a report writes."""
        self._file.append([(tag, p.epoch or p.step, v) for p in points for tag, v in p.values.items()])

    def end(self, state: str, results: Mapping[str, float]) -> None:
        """Close the file."""
        self._file.close()


class WandbRun:
    """A run at Weights & Biases, in the experiment's group; WANDB_MODE=offline keeps it in ``wandb/`` here."""

    def __init__(self, plan: RunPlan, run_folder: Path) -> None:
        import wandb

        experiment = run_folder.parent.name
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=experiment,
            name=plan.run_id,
            config=_parameters(plan),
            reinit="create_new",  # several runs may go on at once
            settings=wandb.Settings(silent=True),
        )

    def log(self, points: Sequence[Point]) -> None:
        """Log by training step; the values of an epoch come with its number."""
        for point in points:
            more = {} if point.epoch is None else {"epoch": point.epoch}
            self._run.log({**point.values, **more}, step=point.step)

    def end(self, state: str, results: Mapping[str, float]) -> None:
        """Keep the results as the run's summary."""
        self._run.summary.update({"state": state, **results})
        self._run.finish(exit_code=0 if state == "completed" else 1)


class MlflowRun:
    """A run of MLflow, in an experiment of the same name; MLFLOW_TRACKING_URI says where."""

    def __init__(self, plan: RunPlan, run_folder: Path) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client: Any = MlflowClient()
        name = run_folder.parent.name
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        self._id = self._client.create_run(experiment, run_name=plan.run_id).info.run_id
        self._client.log_batch(self._id, params=[Param(key, str(value)) for key, value in _parameters(plan).items()])

    def log(self, points: Sequence[Point]) -> None:
        """Log by training step, in one call."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self._id, [Metric(t, v, now, p.step) for p in points for t, v in p.values.items()])

    def end(self, state: str, results: Mapping[str, float]) -> None:
        """Keep the results as metrics, and the state as a tag."""
        for name, value in results.items():
            self._client.log_metric(self._id, name, value)
        self._client.set_tag(self._id, "state", state)
        outcome = {"completed": "FINISHED", "interrupted": "KILLED"}.get(state, "FAILED")
        self._client.set_terminated(self._id, outcome)


def _require(package: str) -> None:
    """Check that a tracker can be imported.

    Raises:
        EnvironmentProblem: its package is not there.
    """
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise EnvironmentProblem(f"--{package} needs the {package} package: pip install 'normbench[{package}]'")


def _parameters(plan: RunPlan) -> dict[str, Any]:
    return flatten(plan.config.model_dump(mode="json"))


def _numbers(summary: Any) -> dict[str, float]:
    """Return the numbers of a task's summary; nothing where a run has none."""
    values = {} if summary is None else summary.model_dump()
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
