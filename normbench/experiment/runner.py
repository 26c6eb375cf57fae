"""Runs an experiment of any task: hands runs to workers, records what they send, survives what goes wrong."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from normbench.errors import DivergedError, FolderBusyError, FolderError
from normbench.experiment.plan import RunPlan
from normbench.experiment.worker_process import Failed, Finished, Worker
from normbench.runs.events import CheckpointFailed, EpochDone, FactsLearned, Started, StepsDone, TrainingDone
from normbench.runs.provenance import describe_program
from normbench.runs.records import STATUS_FILE, State, Status, read_run
from normbench.runs.writer import RunFolder, is_due, planned_state
from normbench.tasks import TASKS
from normbench.worker import targets
from normbench.worker.targets import RunRequest

_SECONDS_BETWEEN_LOOKS = 0.2


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
    event: StepsDone | EpochDone | FactsLearned | CheckpointFailed


@dataclass(frozen=True)
class RunEnded:
    """A run ended, or was ended already (`skipped`)."""

    plan: RunPlan
    status: Status
    summary: Any
    """The task's summary, or None."""
    skipped: bool = False


@dataclass(frozen=True)
class RunBusy:
    """Another process is writing the run, which is left to it."""

    plan: RunPlan


@dataclass(frozen=True)
class Stopping:
    """The runs are asked to stop; each ends its step and saves a checkpoint."""


ExperimentEvent = RunStarted | RunProgressed | RunEnded | RunBusy | Stopping
Listener = Callable[[ExperimentEvent], None]


@dataclass
class ExperimentRunner:
    """Runs plans in an experiment's folder, on as many workers as there are devices.

    What a run sends is written at once, so that whatever happens loses no more than what the run's checkpoint lacks.
    """

    folder: Path
    workers: list[Worker]
    listener: Listener
    data_dir: Path | None = None
    force: bool = False
    retry: bool = False
    keep_checkpoint: bool = False
    prerequisite: Path | None = None
    """The folder of the run that these runs need (`Task.prerequisite`)."""
    _active: dict[Any, _Active] = field(default_factory=dict)
    """Running runs, by their worker's connection."""

    def run(self, plans: Iterable[RunPlan], stop_requested: Callable[[], bool] = lambda: False) -> bool:
        """Run what is not done yet; return whether every run is completed.

        When `stop_requested`, running runs end with a checkpoint to go on from, and no other is started.

        Raises:
            FolderError: the folder cannot be written any more (a full disk, say); runs are marked interrupted.
        """
        waiting = deque(plans)
        num_left = len(waiting)
        try:
            while waiting or self._active:
                if stop_requested():
                    self._stop()
                    return False
                num_left -= self._hand_out(waiting)
                connections = wait(list(self._active), timeout=_SECONDS_BETWEEN_LOOKS)
                ended = [end for connection in connections if (end := self._handle(self._active[connection]))]
                num_left -= sum(end.status.state == "completed" for end in ended)
                num_left -= self._hand_out(waiting)  # the device works on while what ended is reported
                for end in ended:
                    self.listener(end)
        except BaseException as error:
            self._abandon(str(error) or "interrupted")
            raise
        return num_left == 0

    def _hand_out(self, waiting: deque[RunPlan]) -> int:
        """Give every idle worker a run; return how many runs on the way were completed before."""
        num_completed = 0
        for worker in self.workers:
            while waiting and worker.connection not in self._active:
                plan = waiting.popleft()
                folder = RunFolder(self.folder / plan.run_id)
                if not self._is_kept(folder.path):
                    try:
                        folder.acquire()
                    except FolderBusyError:
                        self.listener(RunBusy(plan))
                        continue
                    if not self._is_kept(folder.path):  # still: another process may have run it meanwhile
                        self._start(plan, folder, worker)
                        continue
                    folder.release()
                record = read_run(folder.path)
                if record.config.label != plan.config.label:
                    folder.write_config(plan.config)
                num_completed += record.status.state == "completed"
                self.listener(RunEnded(plan, record.status, record.summary, skipped=True))
        return num_completed

    def _is_kept(self, folder: Path) -> bool:
        return not is_due(planned_state(folder), force=self.force, retry=self.retry)

    def _start(self, plan: RunPlan, folder: RunFolder, worker: Worker) -> None:
        worker.revive()
        self._active[worker.connection] = _Active(plan, worker, folder)
        resume = planned_state(folder.path) == "resume" and not self.force
        if self.force:
            folder.clear()
        folder.remove_results(TASKS[plan.config.task])
        request = RunRequest(plan.config, folder.path, self.data_dir, resume, self.keep_checkpoint, self.prerequisite)
        worker.submit(targets.train_run, request)

    def _handle(self, active: _Active) -> RunEnded | None:
        """Record one message of a run; return its end if that was the last."""
        message = active.worker.receive()
        if isinstance(message, Failed):
            return self._fail(active, message)
        if isinstance(message, Finished):
            return self._finish(active)
        event = message.value
        if isinstance(event, Started):
            active.folder.begin(active.plan.config, rows=event.rows, losses=event.losses)
            active.facts = describe_program() | dict(event.facts)
            active.folder.write_environment(active.facts)
            self.listener(RunStarted(active.plan, len(event.rows), len(event.losses), event.problems))
        elif isinstance(event, TrainingDone):
            if event.samples:
                active.folder.write_samples(event.samples)
            active.summary = event.summary
        else:
            if isinstance(event, StepsDone):
                active.folder.append_steps(event.losses)
            elif isinstance(event, EpochDone):
                active.folder.append_epoch(event.row)
            elif isinstance(event, FactsLearned):
                active.facts |= event.facts
                active.folder.write_environment(active.facts)
            self.listener(RunProgressed(active.plan, event))
        return None

    def _finish(self, active: _Active) -> RunEnded:
        if active.summary is not None:
            return self._release(active, active.folder.finish(active.summary, keep_checkpoint=self.keep_checkpoint))
        return self._end(active, "interrupted", "stopped before its end; run the command again to go on")

    def _fail(self, active: _Active, failure: Failed) -> RunEnded:
        if failure.traceback:
            active.folder.write_error(failure.traceback)
        state: State = "diverged" if isinstance(failure.error, DivergedError) else "failed"
        if active.is_stopping:
            state = "interrupted"  # it could not save a checkpoint, say
        return self._end(active, state, str(failure.error))

    def _end(self, active: _Active, state: State, reason: str) -> RunEnded:
        if not (active.folder.path / STATUS_FILE).exists():
            active.folder.begin(active.plan.config)  # it ended before it started, and still is a row
        return self._release(active, active.folder.set_status(state, reason))

    def _release(self, active: _Active, status: Status) -> RunEnded:
        del self._active[active.worker.connection]
        active.folder.release()
        return RunEnded(active.plan, status, active.summary)

    def _stop(self) -> None:
        """Let every running run end its step and save a checkpoint."""
        self.listener(Stopping())
        running = list(self._active.values())
        for active in running:
            active.is_stopping = True
            active.worker.stop()
        for active in running:
            while (end := self._handle(active)) is None:
                pass
            self.listener(end)

    def _abandon(self, reason: str) -> None:
        """End every running run at once; what is recorded, and its last checkpoint, stay."""
        for active in list(self._active.values()):
            active.worker.kill()
            try:
                self._end(active, "interrupted", reason)
            except FolderError:  # a full disk, say: the status stays "running", which counts as interrupted
                active.folder.release()
        self._active.clear()


@dataclass
class _Active:
    plan: RunPlan
    worker: Worker
    folder: RunFolder
    facts: dict[str, Any] = field(default_factory=dict)
    summary: Any = None
    is_stopping: bool = False
