"""Runs are recorded as they come; whatever goes wrong is a row, and the rest goes on."""

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from forked_program import import_all, start_forked
from local_worker import Killed, LocalWorker
from run_events import SUMMARY, make_plan, make_row, whole_run

from normbench.errors import DataError, DivergedError, FolderError
from normbench.experiment.executor import LocalExecutor
from normbench.experiment.progress import ending
from normbench.experiment.runner import (
    ExperimentRunner,
    RunBusy,
    RunEnded,
    RunProgressed,
    RunStarted,
    RunUnreadable,
    Stopping,
)
from normbench.experiment.worker_process import Worker
from normbench.runs import writer as folder_module
from normbench.runs.events import CheckpointFailed, EpochDone, FactsLearned, Started, StepsDone
from normbench.runs.records import CHECKPOINT_FILE, ERROR_FILE, SUMMARY_FILE, read_run
from normbench.runs.writer import RunFolder, planned_state
from normbench.worker.targets import RunRequest

BN, GN, IN = (make_plan(norm) for norm in ("bn", "gn", "in"))


def fails_for(norm: str, error: Exception, whole=whole_run):
    """Runs like `whole_run`, but for one norm, which raises after its first epoch."""

    def script(request: RunRequest) -> Iterator[Any]:
        for position, event in enumerate(whole(request)):
            if request.config.norm.name == norm and position == 4:
                raise error
            yield event

    return script


def runner_for(tmp_path: Path, seen: list[Any], script: Any = whole_run, **options: bool) -> ExperimentRunner:
    return ExperimentRunner(tmp_path, LocalExecutor([LocalWorker(script=script)]), seen.append, **options)


def states(tmp_path: Path) -> dict[str, str]:
    return {
        path.parent.name.partition("-")[0]: json.loads(path.read_text())["state"]
        for path in sorted(tmp_path.glob("*/status.json"))
    }


def test_a_run_is_recorded_as_it_comes(tmp_path, seen) -> None:
    on_disk = []

    def listen(event: Any) -> None:
        seen.append(event)
        if isinstance(event, RunProgressed):
            record = read_run(tmp_path / BN.run_id)
            on_disk.append((len(record.total_losses), len(record.epochs), record.status.state))

    runner = ExperimentRunner(tmp_path, LocalExecutor([LocalWorker(script=whole_run)]), listen)
    assert runner.run([BN])
    assert on_disk == [
        (1, 0, "running"), (3, 0, "running"), (3, 1, "running"),
        (4, 1, "running"), (6, 1, "running"), (6, 2, "running"),
    ]  # fmt: skip
    record = read_run(tmp_path / BN.run_id)
    assert record.config == BN.config
    assert record.status.state == "completed"
    assert record.total_losses.tolist() == [2.5, 2.25, 2.0, 2.5, 2.25, 2.0]
    assert record.epochs == (make_row(1), make_row(2))
    assert record.summary.test_accuracy == 0.5
    assert record.environment["torch"] == "none"
    assert record.environment["normbench"]
    assert (tmp_path / BN.run_id / "steps.csv").read_text().splitlines()[:2] == ["step,loss", "0,2.5"]
    assert [type(event) for event in seen] == [RunStarted, *[RunProgressed] * 6, RunEnded]


def test_completed_runs_are_kept_and_said_to_be(tmp_path, seen) -> None:
    runner_for(tmp_path, []).run([BN])
    before = (tmp_path / BN.run_id / SUMMARY_FILE).stat().st_mtime_ns
    runner = runner_for(tmp_path, seen)
    assert runner.run([BN, GN])
    assert [request.config.norm.name for (request,) in runner.executor.workers[0].submitted] == ["gn"]
    assert (seen[0].skipped, seen[0].summary.test_accuracy) == (True, 0.5)
    assert (tmp_path / BN.run_id / SUMMARY_FILE).stat().st_mtime_ns == before


def test_force_redoes_a_completed_run_from_nothing(tmp_path, seen) -> None:
    runner_for(tmp_path, []).run([BN])
    folder = tmp_path / BN.run_id
    (folder / CHECKPOINT_FILE).touch()
    (folder / "left-over.txt").touch()
    runner = runner_for(tmp_path, seen, force=True)
    assert runner.run([BN])
    assert runner.executor.workers[0].submitted[0][0].resume is False
    assert not (folder / "left-over.txt").exists()
    assert len(read_run(folder).epochs) == 2


FAILURES = [
    (DivergedError("loss is nan at epoch 2, step 0 of 3"), "diverged", "loss is nan at epoch 2, step 0 of 3", False),
    (
        Killed(),
        "interrupted",
        "the training process was killed by SIGKILL (out of memory?); run the command again to go on",
        False,
    ),
    (DataError("the archive is damaged"), "failed", "the archive is damaged", False),
    (RuntimeError("shape\nmismatch"), "failed", "RuntimeError: shape", True),
]


@pytest.mark.parametrize(("error", "state", "reason", "is_bug"), FAILURES, ids=lambda value: type(value).__name__)
def test_a_run_that_fails_is_a_row_with_its_reason_and_the_others_go_on(
    tmp_path, seen, error, state, reason, is_bug
) -> None:
    assert not runner_for(tmp_path, seen, fails_for("gn", error)).run([BN, GN, IN])
    assert states(tmp_path) == {"bn": "completed", "gn": state, "in": "completed"}
    record = read_run(tmp_path / GN.run_id)
    assert record.status.reason == reason
    assert record.summary is None
    assert len(record.total_losses) == 3  # what came before is kept
    assert len(record.epochs) == 1
    assert (tmp_path / GN.run_id / ERROR_FILE).exists() == is_bug
    assert [event.plan for event in seen if isinstance(event, RunEnded)] == [BN, GN, IN]


def test_failed_runs_are_named_and_left_unless_asked_for(tmp_path, seen) -> None:
    runner_for(tmp_path, [], fails_for("gn", RuntimeError("bug"))).run([BN, GN])
    assert not runner_for(tmp_path, seen).run([BN, GN])
    assert [(event.skipped, event.status.state) for event in seen] == [(True, "completed"), (True, "failed")]

    runner = runner_for(tmp_path, seen, retry=True)
    assert runner.run([BN, GN])
    assert len(runner.executor.workers[0].submitted) == 1
    record = read_run(tmp_path / GN.run_id)
    assert record.status.state == "completed"
    assert len(record.epochs) == 2  # nothing doubled
    assert len(record.total_losses) == 6
    assert not (tmp_path / GN.run_id / ERROR_FILE).exists()


def test_a_run_that_fails_before_it_starts_is_a_row_too(tmp_path, seen) -> None:
    def script(*_: Any) -> Iterator[Any]:
        raise RuntimeError("no kernel image")
        yield

    assert not runner_for(tmp_path, seen, script).run([BN])
    record = read_run(tmp_path / BN.run_id)
    assert (record.status.state, record.status.reason) == ("failed", "RuntimeError: no kernel image")
    assert record.epochs == ()


def test_a_dead_worker_is_revived_for_the_next_run(tmp_path, seen) -> None:
    runner = runner_for(tmp_path, seen, fails_for("bn", Killed()))
    runner.run([BN, GN])
    assert runner.executor.workers[0].num_revived == 2
    assert states(tmp_path) == {"bn": "interrupted", "gn": "completed"}


def test_what_a_run_has_to_do_without_is_told_and_recorded(tmp_path, seen) -> None:
    def script(*arguments: Any) -> Iterator[Any]:
        events = whole_run(*arguments)
        yield next(events)
        yield FactsLearned({"engine": "eager", "engine_fallback": "not capturable: x", "norm_path": "fused"})
        yield CheckpointFailed("no space")
        yield from events

    assert runner_for(tmp_path, seen, script).run([BN])
    environment = read_run(tmp_path / BN.run_id).environment
    assert (environment["engine"], environment["engine_fallback"]) == ("eager", "not capturable: x")
    assert (environment["norm_path"], environment["torch"]) == ("fused", "none")
    assert [type(event.event) for event in seen if isinstance(event, RunProgressed)][:2] == [
        FactsLearned,
        CheckpointFailed,
    ]


# --- stopping ----------------------------------------------------------------------------------------------------


def stop_after(count: int, seen: list[Any]):
    return lambda: sum(isinstance(event, RunProgressed) for event in seen) >= count


def test_a_stop_ends_running_runs_with_a_checkpoint_and_starts_no_other(tmp_path, seen) -> None:
    closed = []

    def script(*arguments: Any) -> Iterator[Any]:
        try:
            yield from whole_run(*arguments)
        except GeneratorExit:
            closed.append(arguments[0].folder)  # where the trainer saves its checkpoint
            raise

    assert not runner_for(tmp_path, seen, script).run([BN, GN], stop_after(4, seen))
    assert closed == [tmp_path / BN.run_id]
    assert states(tmp_path) == {"bn": "interrupted"}
    assert len(read_run(tmp_path / BN.run_id).epochs) == 1
    assert [type(event) for event in seen[-2:]] == [Stopping, RunEnded]
    assert not (tmp_path / GN.run_id).exists()


def test_a_run_whose_checkpoint_cannot_be_saved_on_a_stop_is_interrupted_and_not_failed(tmp_path, seen) -> None:
    def script(*arguments: Any) -> Iterator[Any]:
        try:
            yield from whole_run(*arguments)
        except GeneratorExit:
            raise RuntimeError("no space") from None

    assert not runner_for(tmp_path, seen, script).run([BN], stop_after(1, seen))
    record = read_run(tmp_path / BN.run_id)
    assert (record.status.state, record.status.reason) == ("interrupted", "RuntimeError: no space")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), ValueError("a bug in the display")])
def test_whatever_else_ends_the_runner_leaves_runs_marked_and_processes_ended(tmp_path, error) -> None:
    def listen(event: Any) -> None:
        if isinstance(event, RunProgressed):
            raise error

    runner = ExperimentRunner(tmp_path, LocalExecutor([LocalWorker(script=whole_run)]), listen)
    with pytest.raises(type(error)):
        runner.run([BN])
    assert runner.executor.workers[0].was_closed
    assert states(tmp_path) == {"bn": "interrupted"}
    RunFolder(tmp_path / BN.run_id).acquire().release()  # the lock is free again


def test_an_interrupted_run_takes_what_its_checkpoint_knows(tmp_path, seen) -> None:
    """The folder may lack rows that the checkpoint has, and have rows beyond it: the parent was killed."""
    folder = RunFolder(tmp_path / BN.run_id).acquire()
    folder.begin(BN.config)
    folder.append_steps([(9.0,)] * 5)
    folder.checkpoint.touch()
    (folder.path / "metrics.jsonl").write_text('{"cut off')
    folder.release()
    assert planned_state(folder.path) == "resume"

    def script(request: RunRequest) -> Iterator[Any]:
        assert request.resume
        assert (request.folder / CHECKPOINT_FILE).exists()
        yield Started((make_row(1),), ((2.5,), (2.25,), (2.0,), (2.5,)), {})
        yield StepsDone(2, 1, ((2.25,), (2.0,)), 3, 0.2, 100.0)
        yield EpochDone(make_row(2))
        *_, done = whole_run(request)
        yield done

    assert runner_for(tmp_path, seen, script).run([BN])
    record = read_run(folder.path)
    assert record.total_losses.tolist() == [2.5, 2.25, 2.0, 2.5, 2.25, 2.0]
    assert [row.epoch for row in record.epochs] == [1, 2]
    assert seen[0] == RunStarted(BN, 1, 4)
    assert not folder.checkpoint.exists()
    assert (folder.path / "steps.csv").read_text().splitlines()[-1] == "5,2"


@pytest.mark.parametrize(
    ("state", "has_checkpoint", "expected"),
    [
        ("running", False, "new"), ("running", True, "resume"), ("interrupted", True, "resume"),
        ("interrupted", False, "new"), ("failed", True, "failed"), ("diverged", True, "diverged"),
        ("completed", False, "unreadable"),
    ],
)  # fmt: skip
def test_what_a_folder_promises(tmp_path, state, has_checkpoint, expected) -> None:
    folder = RunFolder(tmp_path / "run").acquire()
    folder.begin(BN.config)
    folder.set_status(state)  # "completed" without a summary contradicts itself
    if has_checkpoint:
        folder.checkpoint.touch()
    assert planned_state(folder.path) == expected


# --- others at work ----------------------------------------------------------------------------------------------


def when_told_busy(seen: list[Any], act: Callable[[], object]) -> Callable[[Any], None]:
    """A listener that keeps what it is told, and acts when a run is busy."""

    def listen(event: Any) -> None:
        seen.append(event)
        if isinstance(event, RunBusy):
            act()

    return listen


@pytest.mark.parametrize("force", [False, True])
def test_a_run_that_another_process_completes_is_waited_for_and_kept(tmp_path, seen, force: bool) -> None:
    other = RunFolder(tmp_path / BN.run_id).acquire()
    other.begin(BN.config)

    def complete() -> None:
        other.finish(SUMMARY, keep_checkpoint=False)
        other.release()

    worker = LocalWorker(script=whole_run)
    runner = ExperimentRunner(tmp_path, LocalExecutor([worker]), when_told_busy(seen, complete), force=force)
    assert runner.run([BN, GN])
    assert [request.config.norm.name for (request,) in worker.submitted] == ["gn"]
    assert seen[0] == RunBusy(BN)
    assert sum(isinstance(event, RunBusy) for event in seen) == 1
    assert states(tmp_path) == {"bn": "completed", "gn": "completed"}


def test_a_run_whose_process_ends_before_it_is_taken_over(tmp_path, seen) -> None:
    other = RunFolder(tmp_path / BN.run_id).acquire()
    other.begin(BN.config)
    other.checkpoint.touch()
    worker = LocalWorker(script=whole_run)
    assert ExperimentRunner(tmp_path, LocalExecutor([worker]), when_told_busy(seen, other.release)).run([BN])
    assert worker.submitted[0][0].resume
    assert states(tmp_path) == {"bn": "completed"}


def test_waiting_for_another_process_ends_when_asked_to(tmp_path, seen) -> None:
    other = RunFolder(tmp_path / BN.run_id).acquire()
    other.begin(BN.config)
    assert not runner_for(tmp_path, seen).run([BN], lambda: RunBusy(BN) in seen)
    assert states(tmp_path) == {"bn": "running"}
    other.release()


@pytest.mark.parametrize(
    "error", [DivergedError("x"), RuntimeError("x"), Killed()], ids=lambda error: type(error).__name__
)
def test_after_enough_failures_no_other_run_is_started(tmp_path, seen, error: Exception) -> None:
    def script(request: RunRequest) -> Iterator[Any]:
        yield next(whole_run(request))
        raise error

    runner = ExperimentRunner(tmp_path, LocalExecutor([LocalWorker(script=script)]), seen.append, max_failures=2)
    assert not runner.run([BN, GN, IN])
    assert runner.has_stopped
    assert states(tmp_path).keys() == {"bn", "gn"}
    assert seen[-1] == Stopping(2)


def test_failures_below_the_limit_stop_nothing(tmp_path, seen) -> None:
    script = fails_for("bn", RuntimeError("x"))
    runner = ExperimentRunner(tmp_path, LocalExecutor([LocalWorker(script=script)]), seen.append, max_failures=2)
    assert not runner.run([BN, GN, IN])
    assert states(tmp_path) == {"bn": "failed", "gn": "completed", "in": "completed"}
    assert not runner.has_stopped


def test_a_run_whose_process_was_killed_is_tried_once_a_call_and_goes_on_in_the_next(tmp_path, seen) -> None:
    def script(request: RunRequest) -> Iterator[Any]:
        yield next(whole_run(request))
        (request.folder / CHECKPOINT_FILE).touch()
        raise Killed

    runner = runner_for(tmp_path, seen, script)
    assert not runner.run([BN])
    assert len(runner.executor.workers[0].submitted) == 1
    runner = runner_for(tmp_path, seen)
    assert runner.run([BN])
    assert runner.executor.workers[0].submitted[0][0].resume


def test_a_stop_at_a_divergence_leaves_a_run_that_diverged(tmp_path, seen) -> None:
    def script(*arguments: Any) -> Iterator[Any]:
        try:
            yield from whole_run(*arguments)
        finally:
            raise DivergedError("loss is nan")

    assert not runner_for(tmp_path, seen, script).run([BN], stop_after(1, seen))
    assert states(tmp_path) == {"bn": "diverged"}


# --- a record that is damaged --------------------------------------------------------------------------------------


def damaged(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    runner_for(tmp_path, []).run([BN])
    folder = tmp_path / BN.run_id
    (folder / SUMMARY_FILE).write_text('{"test_accuracy": []}')
    return folder, {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_that_cannot_be_read_is_named_and_left_alone_and_the_others_go_on(tmp_path, seen) -> None:
    folder, before = damaged(tmp_path)
    assert not runner_for(tmp_path, seen).run([BN, GN])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert isinstance(seen[0], RunUnreadable)
    assert "not a readable run folder" in ending(seen[0])
    assert "--retry trains it again" in ending(seen[0])
    assert read_run(tmp_path / GN.run_id).is_completed


@pytest.mark.parametrize("options", [{"retry": True}, {"force": True}], ids=str)
def test_its_files_are_kept_until_the_new_run_is_completed(tmp_path, seen, options: dict[str, bool]) -> None:
    folder, before = damaged(tmp_path)
    assert not runner_for(tmp_path, seen, fails_for("bn", RuntimeError("x")), **options).run([BN])
    aside = {name: (folder / f"{name}.before").read_bytes() for name in before if name != ".lock"}
    assert aside == {name: content for name, content in before.items() if name != ".lock"}

    assert runner_for(tmp_path, seen, **options).run([BN])
    assert read_run(folder).is_completed
    assert not list(folder.glob("*.before*"))


def test_a_run_that_another_process_completed_meanwhile_is_kept(tmp_path, seen) -> None:
    def script(request: RunRequest) -> Iterator[Any]:
        runner_for(tmp_path, [], whole_run).run([GN])  # the other process, while this one trains bn
        yield from whole_run(request)

    runner = runner_for(tmp_path, seen, script)
    assert runner.run([BN, GN])
    assert len(runner.executor.workers[0].submitted) == 1
    assert [event.skipped for event in seen if isinstance(event, RunEnded)] in ([True, False], [False, True])


def test_a_run_that_another_process_completes_at_the_last_moment_is_kept(tmp_path, seen, monkeypatch) -> None:
    acquire = RunFolder.acquire

    def too_late(self: RunFolder) -> RunFolder:
        monkeypatch.setattr(RunFolder, "acquire", acquire)
        runner_for(tmp_path, []).run([BN])
        return acquire(self)

    monkeypatch.setattr(RunFolder, "acquire", too_late)
    runner = runner_for(tmp_path, seen)
    assert runner.run([BN])
    assert runner.executor.workers[0].submitted == []
    assert seen[0].skipped


def test_several_workers_share_the_runs(tmp_path, seen) -> None:
    workers = [LocalWorker(script=whole_run), LocalWorker(script=fails_for("gn", RuntimeError("x")))]
    assert not ExperimentRunner(tmp_path, LocalExecutor(workers), seen.append).run([BN, GN, IN])
    assert [len(worker.submitted) for worker in workers] in ([1, 2], [2, 1])
    assert states(tmp_path) == {"bn": "completed", "gn": "failed", "in": "completed"}


def test_a_stop_ends_all_that_run_at_once_with_their_checkpoints(tmp_path, seen, monkeypatch) -> None:
    """Two processes, as on two GPUs, that are forked and so have nothing to import."""
    import_all()
    monkeypatch.setattr(Worker, "_start", start_forked)
    plans = [make_plan(norm, epochs=500) for norm in ("bn", "gn", "in")]

    def both_train() -> bool:
        return len({event.plan.run_id for event in seen if isinstance(event, RunProgressed)}) == 2

    with Worker() as first, Worker(environment={"CUDA_VISIBLE_DEVICES": "1"}) as second:
        assert not ExperimentRunner(tmp_path, LocalExecutor([first, second]), seen.append).run(plans, both_train)
    assert states(tmp_path) == {"bn": "interrupted", "gn": "interrupted"}
    for plan in plans[:2]:
        checkpoint = torch.load(tmp_path / plan.run_id / CHECKPOINT_FILE, weights_only=True)
        assert len(checkpoint["losses"]) == len(read_run(tmp_path / plan.run_id).total_losses) >= 1
    started = [position for position, event in enumerate(seen) if isinstance(event, RunStarted)]
    ended = [position for position, event in enumerate(seen) if isinstance(event, RunEnded)]
    assert max(started) < min(ended)


# --- a disk that is full -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing_write", range(1, 12))
def test_a_full_disk_ends_the_runs_and_what_was_recorded_stays_readable(
    tmp_path, seen, monkeypatch, failing_write
) -> None:
    runner_for(tmp_path, []).run([GN])
    writes = 0

    def full_from_then_on() -> None:
        nonlocal writes
        writes += 1
        if writes >= failing_write:
            raise OSError(errno.ENOSPC, "No space left on device")

    write_atomically, append = folder_module.write_text_atomically, RunFolder.append

    def write(path: Path, text: str) -> None:
        full_from_then_on()
        write_atomically(path, text)

    def append_or_not(self: RunFolder, name: str, text: str) -> None:
        with folder_module.folder_errors(self.path):
            full_from_then_on()
        append(self, name, text)

    monkeypatch.setattr(folder_module, "write_text_atomically", write)
    monkeypatch.setattr(RunFolder, "append", append_or_not)
    with pytest.raises(FolderError, match="cannot be written: No space left on device") as caught:
        runner_for(tmp_path, seen).run([BN, IN])
    assert caught.value.exit_code == 3
    monkeypatch.undo()

    assert read_run(tmp_path / GN.run_id).summary is not None
    if (tmp_path / BN.run_id / "status.json").exists():
        assert read_run(tmp_path / BN.run_id).status.state == "running"
    assert not list(tmp_path.glob("*/.*.partial"))
    assert runner_for(tmp_path, seen).run([BN, IN, GN])  # after space was made
    assert len(read_run(tmp_path / BN.run_id).total_losses) == 6


def test_a_new_label_is_taken_over_by_the_completed_run(tmp_path, seen) -> None:
    runner_for(tmp_path, []).run([BN])
    renamed = BN.config.model_copy(update={"norm": BN.config.norm.model_copy(update={"label": "mine"})})
    plan = type(BN)(BN.run_id, renamed, 0)
    assert runner_for(tmp_path, seen).run([plan])
    assert seen[0].skipped
    assert read_run(tmp_path / BN.run_id).config.label == "mine"
