"""Evaluates runs that are completed already, from the checkpoints that they kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from normbench.errors import NormBenchError, RunError, first_line
from normbench.experiment.executor import TrainingProcess
from normbench.runs.bundle_file import find_bundle
from normbench.runs.evaluation_file import EVALUATION_FILE
from normbench.runs.records import CHECKPOINT_FILE, find_runs, is_run
from normbench.runs.writer import RunFolder, planned_state
from normbench.worker import targets
from normbench.worker.targets import EvaluationRequest

State = Literal["evaluated", "kept", "no checkpoint", "not completed", "failed"]


@dataclass(frozen=True)
class RunEvaluated:
    """What became of one run."""

    folder: Path
    state: State
    """`kept`: it had an evaluation already."""
    reason: str | None = None
    """Why it failed."""
    seconds: float = 0.0


def run_folders(paths: Iterable[Path]) -> list[Path]:
    """Return the folders of the runs at `paths`: runs, experiments, or folders of those; each once.

    Raises:
        RunError: there are none at one of them, or it is a bundle, which holds no weights.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if find_bundle(path) is not None:
            raise RunError(f"{path}: a bundle holds no weights to evaluate, only what was recorded of runs")
        runs = [path] if is_run(path) else find_runs(path, "**")
        if not runs:
            raise RunError(f"{path}: no runs there")
        found |= dict.fromkeys(runs)
    return list(found)


def evaluate_runs(
    folders: Iterable[Path],
    request: EvaluationRequest,
    worker: TrainingProcess,
    *,
    force: bool = False,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Iterator[RunEvaluated]:
    """Evaluate the runs in `folders` one after the other, as `request` says, and write what comes out into each.

    A run that cannot be evaluated is told of, and the others go on.

    Raises:
        FolderError: a folder cannot be written, or another process is writing it.
    """
    for folder in folders:
        if stop_requested():
            return
        if (folder / EVALUATION_FILE).exists() and not force:
            yield RunEvaluated(folder, "kept")
        elif planned_state(folder) != "completed":
            yield RunEvaluated(folder, "not completed")
        elif not (folder / CHECKPOINT_FILE).is_file():
            yield RunEvaluated(folder, "no checkpoint")
        else:
            yield _evaluate(folder, replace(request, folder=folder), worker)


def _evaluate(folder: Path, request: EvaluationRequest, worker: TrainingProcess) -> RunEvaluated:
    began = time.monotonic()
    run = RunFolder(folder).acquire()
    try:
        worker.revive()
        run.write_evaluation(worker.call(targets.evaluate_run, request))
    except NormBenchError as error:
        return RunEvaluated(folder, "failed", first_line(error))
    finally:
        run.release()
    return RunEvaluated(folder, "evaluated", seconds=time.monotonic() - began)
