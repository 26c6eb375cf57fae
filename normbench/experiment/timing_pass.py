"""The timing pass: after training, an experiment's norms are timed against each other in one process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from normbench.config.schema import DEFAULT_BASELINE
from normbench.errors import NormBenchError, RunError
from normbench.experiment.executor import TrainingProcess
from normbench.experiment.plan import RunPlan
from normbench.experiment.worker_process import Failed, Finished
from normbench.runs.atomic import write_text_atomically
from normbench.runs.provenance import describe_program
from normbench.runs.records import read_run
from normbench.runs.timing_file import (
    TIMING_FILE,
    Timing,
    TimingSession,
    machine_of,
    read_timing,
    timing_key,
)
from normbench.tasks import TASKS
from normbench.worker import targets
from normbench.worker.targets import TimingCandidate, TimingResult, TimingSchedule

MAX_ROUNDS, MIN_ROUNDS = 10, 4
"""Even, because rounds come in pairs, the second in reverse order."""

_CUDA_MAX_ROUNDS, _CUDA_BLOCK_SECONDS = 6, 0.03
"""There rounds differ by a thousandth, and a comparison may itself be over in seconds."""
_BLOCK_SECONDS = 0.1

_TRAINING_SHARE, _MAX_TRAINING_SHARE = 0.1, 0.5
_MIN_SECONDS_PER_NORM, _MAX_SECONDS_PER_NORM = 1.0, 10.0
"""The pass takes about a tenth of what training took, within these bounds, but for the lower one, on a CPU, no more
than half of it; and never less than `MIN_ROUNDS` need. On CUDA the lower one holds after any training: all rounds take
a fraction of a second there, and a block of one step would time its launch."""

_LOCK_FILE = ".timing.lock"
_SECONDS_BETWEEN_LOOKS = 0.2

_UNTIMED_BLOCKS = 3
"""What a norm takes, in blocks, to warm up and to find the number of steps of a block."""


@dataclass(frozen=True)
class TimingStarted:
    """Norms are about to be timed."""

    num_norms: int


@dataclass(frozen=True)
class TimingProgressed:
    """A share of the timing pass, from 0 to 1, is done."""

    share: float


@dataclass(frozen=True)
class TimingEnded:
    """The timing pass ended; with a problem, norms that were not timed keep the times of runs that trained alone."""

    problem: str | None


TimingEvent = TimingStarted | TimingProgressed | TimingEnded


@dataclass
class TimingPass:
    """Times the norms of `plans` that are not timed yet, setting by setting, and keeps `timing.json`.

    A norm is timed once, however many seeds and learning rates it was trained with, and only against norms of the same
    setting; where a setting has a norm to add, all of it is timed again. A single norm is timed only where its runs
    shared the device.
    """

    folder: Path
    plans: Sequence[RunPlan]
    worker: TrainingProcess
    listener: Callable[[TimingEvent], None]
    data_dir: Path | None = None
    baseline: str | None = None
    force: bool = False
    prerequisite: Path | None = None
    """The folder of the run that the plans' runs need (`Task.prerequisite`)."""

    def run(self, stop_requested: Callable[[], bool] = lambda: False) -> None:
        """Time what is due; nothing that goes wrong here is more than a problem told to the listener.

        One process times at a time; the others wait, and then mostly find nothing due.
        """
        lock = FileLock(self.folder / _LOCK_FILE)
        try:
            if not self._due():
                return
            while True:
                with suppress(Timeout), lock.acquire(timeout=_SECONDS_BETWEEN_LOOKS):
                    self._run(stop_requested)
                    return
                if stop_requested():
                    self.listener(TimingEnded("stopped"))
                    return
        except (NormBenchError, OSError) as error:
            self.listener(TimingEnded(str(error)))

    def _run(self, stop_requested: Callable[[], bool]) -> None:
        due = self._due()
        if not due:
            return
        self.listener(TimingStarted(sum(len(wanted) for wanted, _ in due)))
        problem = None
        for number, (wanted, schedule) in enumerate(due):

            def tell(share: float, number: int = number) -> None:
                self.listener(TimingProgressed((number + share) / len(due)))

            if problem := self._time(wanted, schedule, tell, stop_requested):
                break
        self.listener(TimingEnded(problem))

    def _due(self) -> list[tuple[list[TimingCandidate], TimingSchedule]]:
        """Return the settings to be timed, the baseline first in each."""
        known = _read(self.folder)
        machines: dict[str, tuple[str, ...]] = {}
        due = []
        for plans in _settings(self.plans):
            least = 1 if any(_shared_the_device(self.folder / plan.run_id) for plan in plans) else 2
            if len({timing_key(plan.config) for plan in plans}) < least:
                continue
            if TASKS[plans[0].config.task].prerequisite(plans[0].config) is not None and self.prerequisite is None:
                continue  # all is trained, and what training needed was removed since
            device = plans[0].config.device
            if device not in machines:
                machines[device] = machine_of(self._environment(device))
            wanted = _completed(self.folder, plans, machines[device], self.prerequisite)
            done: set[str] = set()
            for session in known.sessions:
                if machine_of(session.environment) == machines[device]:
                    done |= session.keys | session.skipped_keys
            if len(wanted) < least or (done.issuperset(wanted) and not self.force):
                continue
            name = self.baseline or DEFAULT_BASELINE
            ordered = sorted(
                wanted.values(), key=lambda entry: name not in (entry.config.label, entry.config.norm.name)
            )
            if schedule := choose_schedule(ordered):
                due.append((ordered, schedule))
        return due

    def _environment(self, device: str) -> dict[str, Any]:
        self.worker.revive()
        return self.worker.call(targets.describe_device, device)

    def _time(
        self,
        wanted: Sequence[TimingCandidate],
        schedule: TimingSchedule,
        tell: Callable[[float], None],
        stop_requested: Callable[[], bool],
    ) -> str | None:
        """Time one setting and write it down; return what went wrong, if anything."""
        program = {key: value for key, value in describe_program().items() if key != "argv"}
        sessions = []
        try:
            environment = self._environment(wanted[0].config.device) | program
            if self.force:
                self._replace(wanted, environment, [])  # whatever happens, old times do not stand for new runs
            self.worker.submit(targets.time_norms, wanted, schedule, self.data_dir)
            while not isinstance(message := self.worker.receive(), Finished):
                if isinstance(message, Failed):
                    return str(message.error)
                if isinstance(part := message.value, TimingResult):
                    sessions.append(
                        TimingSession(
                            environment=environment, measured_at=_now(), timed=part.timed, skipped=part.skipped
                        )
                    )
                else:
                    tell(part)
                if stop_requested():
                    self.worker.stop()
            if message.stopped:
                return "stopped"
            self._replace(wanted, environment, sessions)
        except NormBenchError as error:
            return str(error)
        except OSError as error:
            return f"{self.folder / TIMING_FILE}: cannot be written: {error.strerror or error}"
        return None

    def _replace(
        self, wanted: Sequence[TimingCandidate], environment: Mapping[str, Any], sessions: Sequence[TimingSession]
    ) -> None:
        """Write `sessions` in place of those that timed some of `wanted`, and nothing else, on the same machine."""
        keys = {timing_key(entry.config) for entry in wanted}
        kept = [
            session
            for session in _read(self.folder).sessions
            if machine_of(session.environment) != machine_of(environment) or not session.keys <= keys
        ]
        timing = Timing(sessions=(*kept, *sessions))
        write_text_atomically(self.folder / TIMING_FILE, timing.model_dump_json(indent=1) + "\n")


def choose_schedule(wanted: Sequence[TimingCandidate]) -> TimingSchedule | None:
    """Return how many rounds of which length fit the time that the pass may take; None where too few do."""
    trained = sum(entry.train_seconds for entry in wanted)
    is_cuda = wanted[0].config.device == "cuda"
    low, high = _MIN_SECONDS_PER_NORM * len(wanted), _MAX_SECONDS_PER_NORM * len(wanted)
    if not is_cuda:
        low = min(low, _MAX_TRAINING_SHARE * trained)
    seconds = min(high, max(low, _TRAINING_SHARE * trained))
    max_rounds = _CUDA_MAX_ROUNDS if is_cuda else MAX_ROUNDS
    for block_seconds in (_CUDA_BLOCK_SECONDS if is_cuda else _BLOCK_SECONDS, 0.0):
        round_seconds = sum(max(entry.step_seconds, block_seconds) for entry in wanted)
        num_rounds = min(max_rounds, int(seconds / round_seconds) - _UNTIMED_BLOCKS)
        if num_rounds >= MIN_ROUNDS:
            return TimingSchedule(num_rounds // 2 * 2, block_seconds)
    fits = (MIN_ROUNDS + _UNTIMED_BLOCKS) * round_seconds <= high  # of single steps
    return TimingSchedule(MIN_ROUNDS, 0.0) if fits else None


def _settings(plans: Sequence[RunPlan]) -> list[list[RunPlan]]:
    """Sort plans by all that their times depend on but the norm and what norms set for themselves.

    Without probes, and without compiled steps, which would take longer to compile again than to time.
    """
    own = {field for plan in plans for field in plan.config.norm.train} - {"precision"}
    found: dict[str, list[RunPlan]] = {}
    for plan in plans:
        setting = dict(plan.config.timing_fields)
        if getattr(plan.config, "probe", None) is None and setting["train"]["engine"] != "compile":
            del setting["norm"]
            setting["train"] = {field: value for field, value in setting["train"].items() if field not in own}
            found.setdefault(json.dumps(setting, sort_keys=True), []).append(plan)
    return list(found.values())


def _completed(
    folder: Path, plans: Sequence[RunPlan], machine: tuple[str, ...], prerequisite: Path | None
) -> dict[str, TimingCandidate]:
    """Return, by `timing_key`, what completed runs on this machine took."""
    found: dict[str, TimingCandidate] = {}
    for plan in plans:
        try:
            record = read_run(folder / plan.run_id)
        except RunError:
            continue
        summary = record.summary
        if not record.is_completed or machine_of(record.environment) != machine:
            continue
        before = found.get(timing_key(plan.config))
        found[timing_key(plan.config)] = TimingCandidate(
            plan.config,
            max(summary.peak_memory_mib or 0.0, before.peak_memory_mib if before else 0.0),
            summary.train_seconds / record.runs_at_once + (before.train_seconds if before else 0.0),
            summary.num_steps + (before.num_steps if before else 0),
            prerequisite,
        )
    return found


def _shared_the_device(run_folder: Path) -> bool:
    """Return whether a run's own times say nothing, so that its norm is timed even where it is the only one."""
    try:
        return read_run(run_folder).runs_at_once > 1
    except RunError:
        return False


def _read(folder: Path) -> Timing:
    try:
        return read_timing(folder)
    except RunError:
        return Timing()  # it is written anew


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
