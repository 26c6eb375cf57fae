"""Runs an experiment of any task: hands runs to an executor, records what they send, survives what goes wrong."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from normbench.config.schema import EvaluateConfig
from normbench.errors import DivergedError, FolderBusyError, FolderError, RunError, first_line
from normbench.experiment.executor import Executor, Postponed
from normbench.experiment.plan import RunPlan
from normbench.experiment.worker_process import Failed, Finished, Message
from normbench.runs.events import (
    CheckpointFailed,
    EpochDone,
    FactsLearned,
    ProbeFailed,
    ProbeMeasured,
    Started,
    StepsDone,
    TrainingDone,
)
from normbench.runs.places import without_places
from normbench.runs.provenance import describe_program, write_provenance
from normbench.runs.records import STATUS_FILE, State, Status, read_run
from normbench.runs.writer import RunFolder, folder_errors, is_due, planned_state
from normbench.tasks import TASKS
from normbench.worker.targets import RunRequest

_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_BETWEEN_LOOKS_AT_BUSY_RUNS = 1.0
_SECONDS_TO_SAVE = 1.2
"""What runs are given to save a checkpoint when everything is to end at once."""
_HINT = "run the command again to go on"


@dataclass(frozen=True)
class RunStarted:
    """A run begins, with some epochs and steps of its training done if it goes on."""

    plan: RunPlan
    num_epochs: int
    num_steps: int = 0
    problems: tuple[str, ...] = ()
    """Inputs that the run does without, a line each."""


@dataclass(frozen=True)
class RunProgressed:
    """A run reports steps, an epoch, how its steps run, or what it had to do without."""

    plan: RunPlan
    event: StepsDone | EpochDone | FactsLearned | ProbeFailed | CheckpointFailed


@dataclass(frozen=True)
class RunEnded:
    """A run ended, or was ended already (`skipped`)."""

    plan: RunPlan
    status: Status
    summary: Any
    """The task's summary, or None."""
    skipped: bool = False
    runs_at_once: int = 1
    """How many runs its process trained at once, at most."""


@dataclass(frozen=True)
class RunMoved:
    """The machine that trained a run was lost; the run goes on from its checkpoint elsewhere, or here later."""

    plan: RunPlan
    reason: str


@dataclass(frozen=True)
class RunBusy:
    """Another process is writing the run, which is left to it, and taken over if that process ends before the run."""

    plan: RunPlan


@dataclass(frozen=True)
class RunUnreadable:
    """A run was recorded and cannot be read; it is left as it is."""

    plan: RunPlan
    problem: str


@dataclass(frozen=True)
class RunPostponed:
    """A run could not go on beside others; it is trained again from its checkpoint, or anew, beside fewer."""

    plan: RunPlan
    reason: str
    runs_at_once: int
    """How many its process trains at once from now on; 1: that run alone."""


@dataclass(frozen=True)
class Stopping:
    """The runs are asked to stop; each ends its step and saves a checkpoint."""

    num_failed: int = 0
    """How many runs have failed, if that is why."""


ExperimentEvent = RunStarted | RunProgressed | RunEnded | RunMoved | RunPostponed | RunBusy | RunUnreadable | Stopping
Listener = Callable[[ExperimentEvent], None]


@dataclass
class ExperimentRunner:
    """Runs plans in an experiment's folder, as many at once as the executor has room for.

    What a run sends is written at once, so that whatever happens loses no more than what the run's checkpoint lacks.
    """

    folder: Path
    executor: Executor
    listener: Listener
    data_dir: Path | None = None
    force: bool = False
    retry: bool = False
    keep_checkpoint: bool = False
    prerequisite: Path | None = None
    """The folder of the run that these runs need (`Task.prerequisite`)."""
    max_failures: int | None = None
    """After so many runs that fail or diverge no other is started."""
    evaluate: EvaluateConfig | None = None
    """What is measured of each trained network beside its result."""
    max_host_losses: int = 0
    """How often a run goes on elsewhere because its machine was lost, before it is left interrupted."""
    has_stopped: bool = False
    """Whether runs were left undone because of a signal or of failures."""
    _active: dict[str, _Active] = field(default_factory=dict)
    """Running runs, by their run ids."""
    _busy: list[RunPlan] = field(default_factory=list)
    """Runs that another process writes."""
    _seen_busy: set[str] = field(default_factory=set)
    _postponed: list[RunPlan] = field(default_factory=list)
    """Runs that ended because of others, or whose machine was lost, and are to be started again."""
    _attempts: dict[str, int] = field(default_factory=dict)
    """How often each run was started, by its run id."""

    def run(self, plans: Iterable[RunPlan], stop_requested: Callable[[], bool] = lambda: False) -> bool:
        """Run what is not done yet; return whether every run is completed.

        When `stop_requested`, running runs end with a checkpoint to go on from, and no other is started.

        Raises:
            FolderError: the folder cannot be written any more (a full disk, say); runs are marked interrupted.
        """
        waiting = deque(plans)
        num_left = len(waiting)
        num_failed, looked_at = 0, time.monotonic()
        try:
            while waiting or self._active or self._busy:
                if stop_requested():
                    self._stop(Stopping())
                    return False
                if self._busy and time.monotonic() - looked_at > _SECONDS_BETWEEN_LOOKS_AT_BUSY_RUNS:
                    waiting.extend(self._busy)
                    self._busy.clear()
                    looked_at = time.monotonic()
                num_left -= self._hand_out(waiting)
                ended = self._receive()
                waiting.extendleft(reversed(self._postponed))
                self._postponed.clear()
                num_completed = sum(end.status.state == "completed" for end in ended)
                num_left -= num_completed
                num_failed += len(ended) - num_completed
                is_enough = self.max_failures is not None and num_failed >= self.max_failures
                if not is_enough:
                    num_left -= self._hand_out(waiting)  # the device works on while what ended is reported
                for end in ended:
                    self.listener(end)
                if is_enough and num_left:
                    self._stop(Stopping(num_failed))
                    return False
        except BaseException as error:
            self._abandon(str(error) if isinstance(error, Exception) else f"interrupted; {_HINT}")
            raise
        return num_left == 0

    def _hand_out(self, waiting: deque[RunPlan]) -> int:
        """Start runs while there is room; return how many runs on the way were completed before."""
        num_completed = 0
        while (position := self.executor.choose(waiting)) is not None:
            plan = waiting[position]
            del waiting[position]
            if not self._start_if_due(plan):
                num_completed += self._keep(plan)
        return num_completed

    def _start_if_due(self, plan: RunPlan) -> bool:
        """Start the run, or leave it to the process that writes it; return False if it is to be kept as it is."""
        folder = RunFolder(self.folder / plan.run_id)
        if not self._is_due(plan):
            return False
        try:
            folder.acquire()
        except FolderBusyError:
            if plan.run_id not in self._seen_busy:
                self.listener(RunBusy(plan))
            self._seen_busy.add(plan.run_id)
            self._busy.append(plan)
            return True
        if self._is_due(plan):  # still: another process may have run it meanwhile
            self._start(plan, folder)
            return True
        folder.release()
        return False

    def _keep(self, plan: RunPlan) -> int:
        """Tell the listener of a run that is kept; return how many completed runs that makes."""
        folder = RunFolder(self.folder / plan.run_id)
        try:
            record = read_run(folder.path)
        except RunError as error:
            self.listener(RunUnreadable(plan, first_line(error)))
            return 0
        if record.config.label != plan.config.label:
            folder.write_config(plan.config)
        self.listener(RunEnded(plan, record.status, record.summary, skipped=True))
        return record.status.state == "completed"

    def _is_due(self, plan: RunPlan) -> bool:
        return is_due(planned_state(self.folder / plan.run_id), force=self._is_forced(plan), retry=self.retry)

    def _is_forced(self, plan: RunPlan) -> bool:
        """Return whether the run is made again; what another process or this one has made meanwhile is new enough."""
        return self.force and plan.run_id not in self._seen_busy and plan.run_id not in self._attempts

    def _start(self, plan: RunPlan, folder: RunFolder) -> None:
        self._active[plan.run_id] = _Active(plan, folder)
        state, is_forced = planned_state(folder.path), self._is_forced(plan)
        if is_forced or state == "unreadable":
            folder.set_aside()
        resume = state == "resume" and not is_forced
        folder.remove_results(TASKS[plan.config.task])
        request = RunRequest(
            plan.config, folder.path, self.data_dir, resume, self.keep_checkpoint, self.prerequisite, self.evaluate
        )
        self._attempts[plan.run_id] = self._attempts.get(plan.run_id, 0) + 1
        self.executor.submit(plan.run_id, request)

    def _receive(self) -> list[RunEnded]:
        """Record the messages that have come, waiting a moment for one; return the ends of runs among them."""
        messages = self.executor.wait(_SECONDS_BETWEEN_LOOKS)
        return [end for run_id, message in messages if (end := self._handle(self._active[run_id], message))]

    def _handle(self, active: _Active, message: Message | Postponed) -> RunEnded | None:
        """Record one message of a run; return its end if that was the last."""
        if isinstance(message, Postponed):
            return self._postpone(active, message)
        if isinstance(message, Failed):
            return self._fail(active, message)
        if isinstance(message, Finished):
            return self._finish(active)
        event = message.value
        if isinstance(event, Started):
            active.folder.begin(active.plan.config, rows=event.rows, losses=event.losses, probe_rows=event.probe_rows)
            active.facts = describe_program() | without_places(event.facts)
            if (attempts := self._attempts[active.plan.run_id]) > 1:
                active.facts["attempts"] = attempts
            active.folder.write_environment(active.facts)
            with folder_errors(self.folder):
                write_provenance(self.folder)
            self.listener(RunStarted(active.plan, len(event.rows), len(event.losses), event.problems))
        elif isinstance(event, TrainingDone):
            if event.samples:
                active.folder.write_samples(event.samples)
            if event.evaluation is not None:
                active.folder.write_evaluation(event.evaluation)
            active.summary = event.summary
        elif isinstance(event, ProbeMeasured):
            active.folder.append_probe(event.name, event.row)
        else:
            if isinstance(event, StepsDone):
                active.folder.append_steps(event.losses)
            elif isinstance(event, EpochDone):
                active.folder.append_epoch(event.row)
            elif isinstance(event, FactsLearned):
                active.facts |= event.facts
                active.folder.write_environment(active.facts)
            elif isinstance(event, ProbeFailed):
                active.facts[f"probe_{event.name}"] = event.reason
                active.folder.write_environment(active.facts)
            self.listener(RunProgressed(active.plan, event))
        return None

    def _finish(self, active: _Active) -> RunEnded:
        if active.summary is not None:
            return self._release(active, active.folder.finish(active.summary, keep_checkpoint=self.keep_checkpoint))
        return self._end(active, "interrupted", f"stopped before its end; {_HINT}")

    def _fail(self, active: _Active, failure: Failed) -> RunEnded | None:
        if failure.traceback:
            active.folder.write_error(failure.traceback)
        reason = str(failure.error)
        if isinstance(failure.error, DivergedError):
            return self._end(active, "diverged", reason)
        if failure.is_host_lost and self._may_move(active):
            self._put_back(active, reason, RunMoved(active.plan, reason))
            return None
        if failure.is_lost:  # killed for its memory, say: once a call, and from its checkpoint the next time
            return self._end(active, "interrupted", f"{reason}; {_HINT}")
        # While stopping, it may not have been able to save a checkpoint.
        return self._end(active, "interrupted" if active.is_stopping else "failed", reason)

    def _may_move(self, active: _Active) -> bool:
        return not active.is_stopping and self._attempts[active.plan.run_id] <= self.max_host_losses

    def _postpone(self, active: _Active, message: Postponed) -> RunEnded | None:
        """Have a run trained again beside fewer; or end it where all are stopping."""
        if active.is_stopping:
            return self._fail(active, message.failure)
        reason = str(message.failure.error)
        self._put_back(active, f"{reason}; {_HINT}", RunPostponed(active.plan, reason, message.runs_at_once))
        return None

    def _put_back(self, active: _Active, reason: str, event: RunMoved | RunPostponed) -> None:
        """Put a run back among those that wait, as one that was interrupted."""
        self._end(active, "interrupted", reason)
        self._postponed.append(active.plan)
        self.listener(event)

    def _end(self, active: _Active, state: State, reason: str) -> RunEnded:
        if not (active.folder.path / STATUS_FILE).exists():
            active.folder.begin(active.plan.config)  # it ended before it started, and still is a row
        return self._release(active, active.folder.set_status(state, reason))

    def _release(self, active: _Active, status: Status) -> RunEnded:
        del self._active[active.plan.run_id]
        active.folder.release()
        return RunEnded(active.plan, status, active.summary, runs_at_once=active.facts.get("concurrent_runs", 1))

    def _stop(self, event: Stopping) -> None:
        """Let every running run end its step and save a checkpoint."""
        self.has_stopped = True
        self.listener(event)
        for run_id, active in self._active.items():
            active.is_stopping = True
            self.executor.stop(run_id)
        while self._active:
            for end in self._receive():
                self.listener(end)

    def _abandon(self, reason: str) -> None:
        """End every running run within seconds: they save a checkpoint when they see that nobody listens."""
        self.executor.dismiss()
        self.executor.kill(_SECONDS_TO_SAVE)
        for active in list(self._active.values()):
            try:
                self._end(active, "interrupted", reason)
            except FolderError:  # a full disk, say: the status stays "running", which counts as interrupted
                active.folder.release()
        self._active.clear()


@dataclass
class _Active:
    plan: RunPlan
    folder: RunFolder
    facts: dict[str, Any] = field(default_factory=dict)
    summary: Any = None
    is_stopping: bool = False
