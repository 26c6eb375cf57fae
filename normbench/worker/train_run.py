"""Training one planned run of any task, as a stream of events; and compiling the kernels of several runs at once."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from normbench.engine.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from normbench.engine.device import describe, is_out_of_memory
from normbench.engine.precompile import compile_for, compile_later
from normbench.engine.same_bits import promise
from normbench.engine.step.base import TrainStep
from normbench.engine.trainer import Trainer
from normbench.errors import OutOfMemoryError, RunError
from normbench.layers.norm_act import describe_paths
from normbench.norms import NORMS, SEQUENCE_NORMS
from normbench.runs.events import (
    CheckpointFailed,
    EpochDone,
    FactsLearned,
    Pause,
    RunEvent,
    Started,
    StepsDone,
    TrainingDone,
    TrainingEvent,
)
from normbench.runs.provenance import describe_program, same_bits_on
from normbench.runs.records import CHECKPOINT_FILE, read_run, read_status
from normbench.worker import classifiers as classifiers  # what most processes need, imported while they start
from normbench.worker.company import Member, check_room, train_in_company
from normbench.worker.interface import LoadedRun
from normbench.worker.targets import RunRequest, task_of

MIN_SECONDS_BETWEEN_CHECKPOINTS = 1.0
MAX_CHECKPOINT_SHARE = 0.02
"""Checkpoints may take this share of a run's time: so much more rarely is one written as it takes longer.

Those of several runs at once together, because the others wait while one writes its own.
"""
SECONDS_AFTER_FAILED_CHECKPOINT = 30.0
_MOVED = "no: it began on"


_MAX_SECONDS_TO_LOAD = 5.0
"""What loading kernels that are in the cache takes at most."""


def compile_ahead(requests: Sequence[RunRequest], later: Sequence[RunRequest]) -> float:
    """Compile the kernels of all `requests` at once, and return how many seconds that took.

    Where it shows that the cache was empty, those of `later` are compiled while the first runs train.
    """
    began = time.perf_counter()
    compile_for(_steps_of(requests), load_libraries=True)
    seconds = time.perf_counter() - began
    if seconds > _MAX_SECONDS_TO_LOAD:
        compile_later(_steps_of(later))
    return seconds


def _steps_of(requests: Sequence[RunRequest]) -> Iterator[TrainStep]:
    """Yield the training step of each run that can be built; the others say what is wrong when they are run."""
    for request in requests:
        with suppress(Exception):
            yield _load(request).trainer.step


def train_run(request: RunRequest) -> Iterator[RunEvent | Pause]:
    """Train the run and yield its events; when closed early, save a checkpoint to go on from.

    Where the process trains several runs at once it also yields pauses, in which the others have their turns. What a
    run computes does not depend on them.

    Checkpoints, and what a task keeps of its network, are written into the run's folder; the caller writes the rest.

    A checkpoint that cannot be used costs what it knows, and nothing else: the run starts anew.

    Raises:
        DataError: what the run reads is missing or damaged.
        DivergedError: a loss is not finite.
        OutOfMemoryError: the device's memory does not hold the run, or not beside the others.
    """
    if request.runs_at_once == 1:
        yield from _train_run(request, None)
    else:
        yield from train_in_company(partial(_train_run, request), request.config.device)


def _train_run(request: RunRequest, member: Member | None) -> Generator[RunEvent | Pause, None, None]:
    config, parent = request.config, multiprocessing.parent_process()
    writers = (_writer_of(request.folder), parent.pid if parent else os.getpid(), None)
    try:
        if member is not None:
            check_room(config.device)
        run, problems = _resume(request)
        trainer = run.trainer
        if member is not None:
            trainer.memory.suspend()  # until its turns begin
        facts = {**describe(config.device), **run.facts, **_concurrent_runs(request)}
        moved = _moved(request.folder, facts) if trainer.losses else {}
        problems = [*run.problems, *problems]
        yield Started(trainer.rows, trainer.losses, facts | moved, tuple(problems), trainer.probe_rows)
        yield from _train(run, request, moved, member)
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


def _concurrent_runs(request: RunRequest) -> dict[str, int]:
    """Return how many runs shared the device with this one, itself counted, as long as it was not alone throughout."""
    try:
        before = read_run(request.folder).environment.get("concurrent_runs", 1) if request.resume else 1
    except RunError:
        before = 1
    return {"concurrent_runs": most} if (most := max(before, request.runs_at_once)) > 1 else {}


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


def _train(
    run: LoadedRun, request: RunRequest, known: dict[str, str], member: Member | None = None
) -> Iterator[RunEvent | Pause]:
    """Train to the end, with a checkpoint as often as its cost allows; `known` stands above what its steps show."""
    least_pause = MIN_SECONDS_BETWEEN_CHECKPOINTS * request.runs_at_once
    share = MAX_CHECKPOINT_SHARE / request.runs_at_once
    saved_at, pause = time.monotonic(), least_pause
    has_stepped = False
    with closing(run.trainer.run() if member is None else _in_turns(run.trainer, member)) as events:
        for event in events:
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
                    pause = max(least_pause, (time.monotonic() - began) / share)
                except CheckpointError as error:
                    yield CheckpointFailed(str(error))
                    pause = SECONDS_AFTER_FAILED_CHECKPOINT
                saved_at = time.monotonic()


def _in_turns(trainer: Trainer, member: Member) -> Generator[TrainingEvent | Pause, None, None]:
    """Yield the events of a run that is `member` of a company; its first step waits until all are prepared.

    A capture that fails for want of memory is no reason to go on without one here: alone there may be enough.
    """
    member.memory = trainer.memory
    with closing(trainer.run_in_turns()) as events:
        for event in events:
            if member.is_preparing and isinstance(event, Pause):
                if (reason := trainer.step.fallback_reason) and "out of memory" in reason:
                    raise torch.OutOfMemoryError(reason)
                yield member.when_all_are_prepared()
            else:
                yield event


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
