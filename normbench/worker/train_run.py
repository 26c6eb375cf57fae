"""Training one planned run of any task, as a stream of events; and compiling the kernels of several runs at once."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from normbench.engine.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from normbench.engine.device import OutOfMemoryError, describe, is_out_of_memory
from normbench.engine.precompile import compile_for
from normbench.engine.same_bits import promise
from normbench.engine.step.base import TrainStep
from normbench.errors import RunError
from normbench.layers.norm_act import describe_paths
from normbench.norms import NORMS, SEQUENCE_NORMS
from normbench.runs.events import CheckpointFailed, EpochDone, FactsLearned, RunEvent, Started, StepsDone, TrainingDone
from normbench.runs.provenance import describe_program, same_bits_on
from normbench.runs.records import CHECKPOINT_FILE, read_run, read_status
from normbench.worker import classifiers as classifiers  # what most processes need, imported while they start
from normbench.worker.interface import LoadedRun
from normbench.worker.targets import RunRequest, task_of

MIN_SECONDS_BETWEEN_CHECKPOINTS = 1.0
MAX_CHECKPOINT_SHARE = 0.02
"""Checkpoints may take this share of a run's time: so much more rarely is one written as it takes longer."""
SECONDS_AFTER_FAILED_CHECKPOINT = 30.0
_MOVED = "no: it began on"


def compile_ahead(requests: Sequence[RunRequest]) -> None:
    """Compile the kernels of all these runs at once."""
    compile_for(_steps_of(requests), load_libraries=True)


def _steps_of(requests: Sequence[RunRequest]) -> Iterator[TrainStep]:
    """Yield the training step of each run that can be built; the others say what is wrong when they are run."""
    for request in requests:
        with suppress(Exception):
            yield _load(request).trainer.step


def train_run(request: RunRequest) -> Iterator[RunEvent]:
    """Train the run and yield its events; when closed early, save a checkpoint to go on from.

    Checkpoints, and what a task keeps of its network, are written into the run's folder; the caller writes the rest.

    A checkpoint that cannot be used costs what it knows, and nothing else: the run starts anew.

    Raises:
        DataError: what the run reads is missing or damaged.
        DivergedError: a loss is not finite.
        OutOfMemoryError: the device's memory does not hold the run.
    """
    config, parent = request.config, multiprocessing.parent_process()
    writers = (_writer_of(request.folder), parent.pid if parent else os.getpid(), None)
    try:
        run, problems = _resume(request)
        trainer = run.trainer
        facts = {**describe(config.device), **run.facts}
        moved = _moved(request.folder, facts) if trainer.losses else {}
        problems = [*run.problems, *problems]
        yield Started(trainer.rows, trainer.losses, facts | moved, tuple(problems), trainer.probe_rows)
        yield from _train(run, request, moved)
    except GeneratorExit:
        if _writer_of(request.folder) in writers:
            _save(run, request)
        raise
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(config.device, config.train.batch_size, config.model_name, error) from error
    if request.keep_checkpoint:
        _save(run, request)


def _resume(request: RunRequest) -> tuple[LoadedRun, list[str]]:
    """Return the run, as its checkpoint has it if there is to be one, and why that cannot be used if it cannot."""
    run = _load(request)
    if not request.resume:
        return run, []
    try:
        load_checkpoint(request.folder / CHECKPOINT_FILE, request.config.run_id, lambda state: _take_over(run, state))
    except CheckpointError as error:
        return _load(request), [f"{error}; the run starts anew"]  # loaded again: some of it may have been taken over
    return run, []


def _take_over(run: LoadedRun, state: dict[str, Any]) -> None:
    run.trainer.load_state_dict(state)
    if "average" in state:
        run.average.load_state_dict(state["average"], run.trainer.model)


def _moved(folder: Path, facts: Mapping[str, Any]) -> dict[str, str]:
    """Return that a run makes no promise of the same bits if it goes on elsewhere than where it began."""
    try:
        before = read_run(folder).environment
    except RunError:
        before = {}
    if str(before.get("same_bits")).startswith(_MOVED):
        return {"same_bits": before["same_bits"]}
    began_on = same_bits_on(before)
    here = same_bits_on(describe_program() | dict(facts))
    return {} if began_on == here else {"same_bits": f"{_MOVED} {began_on or 'another machine'}"}


def _writer_of(folder: Path) -> int | None:
    """Return which process records the run: another one than before, if it goes on with what this one's parent left."""
    try:
        return read_status(folder).pid
    except RunError:
        return None


def _save(run: LoadedRun, request: RunRequest) -> None:
    state = run.trainer.state_dict()
    if run.average.count:
        state["average"] = run.average.state_dict()
    save_checkpoint(state, request.folder / CHECKPOINT_FILE, request.config.run_id)


def _load(request: RunRequest) -> LoadedRun:
    return task_of(request.config.task).load_run(request.config, request.data_dir, request.prerequisite)


def _train(run: LoadedRun, request: RunRequest, known: dict[str, str]) -> Iterator[RunEvent]:
    """Train to the end, with a checkpoint as often as its cost allows; `known` stands above what its steps show."""
    saved_at, pause = time.monotonic(), MIN_SECONDS_BETWEEN_CHECKPOINTS
    has_stepped = False
    for event in run.trainer.run():
        if isinstance(event, EpochDone):
            _average_epoch(event, run, request)
        yield _finish(event, run, request) if isinstance(event, TrainingDone) else event
        if not isinstance(event, StepsDone):
            continue
        if not has_stepped:
            has_stepped = True
            yield FactsLearned(_how_steps_run(run, request) | known)
        began = time.monotonic()
        if began - saved_at >= pause:
            try:
                _save(run, request)
                pause = max(MIN_SECONDS_BETWEEN_CHECKPOINTS, (time.monotonic() - began) / MAX_CHECKPOINT_SHARE)
            except CheckpointError as error:
                yield CheckpointFailed(str(error))
                pause = SECONDS_AFTER_FAILED_CHECKPOINT
            saved_at = time.monotonic()


def _average_epoch(event: EpochDone, run: LoadedRun, request: RunRequest) -> None:
    """Take the weights into their average if an evaluation asks for it after this epoch."""
    if request.evaluate is None or run.evaluate is None:
        return
    num_epochs = request.config.length
    if event.row.epoch > num_epochs - request.evaluate.num_averaged(num_epochs):
        run.average.add(run.trainer.model)


def _finish(done: TrainingDone, run: LoadedRun, request: RunRequest) -> TrainingDone:
    """Complete the result of the training."""
    done = run.finish(done, request.folder)
    if request.evaluate is None or run.evaluate is None:
        return done
    return replace(done, evaluation=run.evaluate(request.evaluate, run.average))


def _how_steps_run(run: LoadedRun, request: RunRequest) -> dict[str, Any]:
    """Return what only a step shows: if norms run fused, by the engine asked for, and give the same bits again."""
    config, step = request.config, run.trainer.step
    norm = {**SEQUENCE_NORMS, **NORMS}.get(config.norm.name.partition("+")[0])
    has_norms = norm is None or norm.kind != "none"
    facts = {"norm_path": describe_paths(run.trainer.model) if has_norms else "no norm layers"}
    facts["same_bits"] = promise(step.settings, step.nondeterministic, reproducible=config.train.reproducible)
    if reason := step.fallback_reason:
        facts |= {"engine": "eager", "engine_fallback": reason}
    return facts
