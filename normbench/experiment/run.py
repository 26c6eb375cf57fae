"""Running an experiment: hand runs to workers, record what they send, survive what goes wrong."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal

from normbench.engine.events import EngineFellBack, EpochDone, Started, StepsDone, TrainingDone
from normbench.errors import FolderBusyError, FolderError, RunError
from normbench.experiment.environment import describe_program
from normbench.experiment.folder import RunFolder
from normbench.experiment.plan import RunPlan
from normbench.records import CHECKPOINT_FILE, STATUS_FILE, Status, Summary, read_run
from normbench.workers import Failed, Finished, Worker

PlannedState = Literal["new", "resume", "completed", "failed", "diverged"]


@dataclass(frozen=True)
class RunStarted:
    """A run begins, from `num_epochs` epochs done on."""

    plan: RunPlan
    num_epochs: int


@dataclass(frozen=True)
class RunProgressed:
    """A run reports steps, an epoch, or that its engine fell back."""

    plan: RunPlan
    event: StepsDone | EpochDone | EngineFellBack


@dataclass(frozen=True)
class RunEnded:
    """A run ended, or was ended already (`skipped`)."""

    plan: RunPlan
    status: Status
    summary: Summary | None
    skipped: bool = False


ExperimentEvent = RunStarted | RunProgressed | RunEnded
Listener = Callable[[ExperimentEvent], None]


def planned_state(folder: Path) -> PlannedState:
    """Return what running a planned run would find in its folder."""
    if not (folder / STATUS_FILE).exists():
        return "new"
    try:
        record = read_run(folder)
    except RunError:
        return "new"
    state = record.status.state
    if state == "completed" and record.summary is not None:
        return "completed"
    if state in ("failed", "diverged"):
        return "failed" if state == "failed" else "diverged"
    return "resume" if (folder / CHECKPOINT_FILE).exists() else "new"


@dataclass
class ExperimentRunner:
    """Runs plans in an experiment's folder, on as many workers as there are devices.

    `run` returns when all runs have ended; an interrupt leaves what was recorded, with a checkpoint to go on from.
    """

    folder: Path
    workers: list[Worker]
    listener: Listener
    data_dir: Path | None = None
    force: bool = False
    retry: bool = False
    keep_checkpoint: bool = False
    _active: dict[Any, _Active] = field(default_factory=dict)

    def run(self, plans: Iterable[RunPlan]) -> list[Status]:
        """Run what is not done yet and return the status of every run.

        Raises:
            FolderError: the folder cannot be written any more (a full disk, say).
            KeyboardInterrupt: interrupted; running runs are marked so.
        """
        statuses: list[Status] = []
        waiting: deque[RunPlan] = deque()
        for plan in plans:
            state = planned_state(self.folder / plan.run_id)
            kept = state == "completed" or (state in ("failed", "diverged") and not self.retry)
            if kept and not self.force:
                record = read_run(self.folder / plan.run_id)
                statuses.append(record.status)
                self.listener(RunEnded(plan, record.status, record.summary, skipped=True))
            else:
                waiting.append(plan)
        try:
            while waiting or self._active:
                statuses += self._hand_out(waiting)
                for connection in wait(list(self._active)):
                    status = self._handle(self._active[connection])
                    if status is not None:
                        del self._active[connection]
                        statuses.append(status)
        except (KeyboardInterrupt, FolderError) as error:
            self._interrupt("interrupted" if isinstance(error, KeyboardInterrupt) else str(error))
            raise
        return statuses

    def _hand_out(self, waiting: deque[RunPlan]) -> list[Status]:
        """Give every idle worker a run; return the statuses of runs that another process is writing."""
        busy = []
        for position in range(len(self.workers)):
            while waiting and self.workers[position].connection not in self._active:
                plan = waiting.popleft()
                try:
                    self._start(plan, position)
                except FolderBusyError as error:
                    now = datetime.now(UTC).isoformat(timespec="seconds")
                    status = Status(state="running", reason=str(error), started_at=now, pid=0)
                    busy.append(status)
                    self.listener(RunEnded(plan, status, None, skipped=True))
        return busy

    def _start(self, plan: RunPlan, position: int) -> None:
        if not self.workers[position].is_alive:
            self.workers[position].close()
            self.workers[position] = self.workers[position].replacement()
        worker = self.workers[position]
        folder = RunFolder(self.folder / plan.run_id).acquire()
        resume = planned_state(folder.path) == "resume" and not self.force
        self._active[worker.connection] = _Active(plan, worker, folder)
        if self.force:
            folder.clear()
        target = "normbench.experiment.train:train_run"
        worker.submit(target, plan.config, self.data_dir, folder.checkpoint, resume, self.keep_checkpoint)

    def _handle(self, active: _Active) -> Status | None:
        """Record one message of a run; return its status if that was the last."""
        message = active.worker.receive()
        if isinstance(message, Failed):
            return self._fail(active, message)
        if isinstance(message, Finished):
            return self._end(active)
        event = message.value
        if isinstance(event, Started):
            active.folder.begin(active.plan.config, keep_epochs=event.num_epochs, keep_steps=event.num_steps)
            active.facts = describe_program() | dict(event.facts)
            active.folder.write_environment(active.facts)
            self.listener(RunStarted(active.plan, event.num_epochs))
        elif isinstance(event, TrainingDone):
            active.summary = event.summary
        else:
            if isinstance(event, StepsDone):
                active.folder.append_steps(event.losses)
            elif isinstance(event, EpochDone):
                active.folder.append_epoch(event.row)
            elif isinstance(event, EngineFellBack):
                active.facts |= {"engine": "eager", "engine_fallback": event.reason}
                active.folder.write_environment(active.facts)
            self.listener(RunProgressed(active.plan, event))
        return None

    def _end(self, active: _Active) -> Status:
        if active.summary is None:  # stopped when asked to, with a checkpoint
            status = active.folder.set_status("interrupted", "stopped before its end; run the command again to go on")
        else:
            status = active.folder.finish(active.summary, keep_checkpoint=self.keep_checkpoint)
        return self._release(active, status)

    def _fail(self, active: _Active, failure: Failed) -> Status:
        if not (active.folder.path / STATUS_FILE).exists():
            active.folder.begin(active.plan.config)  # it failed before it started; the failure is still a row
        if failure.traceback:
            active.folder.write_error(failure.traceback)
        state: Literal["diverged", "failed"] = "diverged" if failure.kind == "DivergedError" else "failed"
        return self._release(active, active.folder.set_status(state, failure.message))

    def _release(self, active: _Active, status: Status) -> Status:
        active.folder.release()
        self.listener(RunEnded(active.plan, status, active.summary))
        return status

    def _interrupt(self, reason: str) -> None:
        """Stop all running runs at their next step, with a checkpoint each, and record that."""
        for active in self._active.values():
            active.worker.stop()
        for active in self._active.values():
            try:
                while self._handle(active) is None:
                    pass
            except (FolderError, KeyboardInterrupt):
                active.worker.kill()
                active.folder.try_status("interrupted", reason)
                active.folder.release()
        self._active.clear()


@dataclass
class _Active:
    plan: RunPlan
    worker: Worker
    folder: RunFolder
    facts: dict[str, Any] = field(default_factory=dict)
    summary: Summary | None = None
