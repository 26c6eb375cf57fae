"""Worker processes: what they run, what they say when it fails, and what ends them."""

import os
import pickle
import signal
import time
from typing import Any

import pytest
import worker_targets
from run_events import make_plan

from normbench.errors import DataError, DeviceError, NormBenchError, UnknownNameError, WorkerError
from normbench.experiment.worker_process import Failed, Finished, Worker, Yielded, failure_from
from normbench.worker import targets


@pytest.fixture(scope="module")
def worker():
    with Worker({"NORMBENCH_TEST": "here"}) as worker:
        yield worker


def messages(worker: Worker, function: str, *arguments: object) -> list:
    worker.submit(getattr(worker_targets, function), *arguments)
    received = []
    while True:
        received.append(worker.receive())
        if not isinstance(received[-1], Yielded):
            return received


def test_values_come_one_by_one_and_then_the_end(worker) -> None:
    assert messages(worker, "count", 3) == [Yielded(0), Yielded(1), Yielded(2), Finished()]


def test_one_process_runs_one_function_after_another_in_the_given_environment(worker) -> None:
    first, second = worker.call(worker_targets.identity), worker.call(worker_targets.identity)
    assert first == second
    assert first != (os.getpid(), "here")
    assert first[1] == "here"


def test_a_users_problem_keeps_its_message_and_exit_code(worker) -> None:
    (failure,) = messages(worker, "complain")
    assert isinstance(failure.error, DataError)
    assert (str(failure.error), failure.error.exit_code, failure.traceback) == ("no data there", 3, None)


def test_an_error_crosses_the_processes_with_its_fields(worker) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'gn'") as caught:
        worker.call(worker_targets.misspell)
    assert (caught.value.name, caught.value.allowed) == ("gnn", ("bn", "gn"))


def test_a_norm_that_cannot_be_built_says_which_it_is(worker) -> None:
    config = make_plan("gn").config.model_dump()
    broken = {**config, "norm": {"name": "gn", "options": {"groups": 5}}}
    with pytest.raises(targets.DraftError, match="groups=5 does not divide 16 channels") as caught:
        worker.call(targets.resolve_runs, [targets.RunDraft(0, config, ""), targets.RunDraft(1, broken, "")])
    assert caught.value.norm_position == 1


def kinds_of_errors(kind: type[NormBenchError] = NormBenchError) -> list[type[NormBenchError]]:
    return [kind, *(found for below in kind.__subclasses__() for found in kinds_of_errors(below))]


@pytest.mark.parametrize("kind", kinds_of_errors(), ids=lambda kind: kind.__name__)
def test_every_error_can_cross_whatever_its_class_is_called_with(kind: type[NormBenchError]) -> None:
    error = kind.__new__(kind, "what is wrong")
    error.args = ("what is wrong",)
    error.where = ("norms", 1)  # type: ignore[attr-defined]
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.exit_code) == (kind, "what is wrong", kind.exit_code)
    assert again.where == ("norms", 1)


def test_a_bug_brings_its_traceback(worker) -> None:
    (failure,) = messages(worker, "crash")
    assert isinstance(failure.error, WorkerError)
    assert (str(failure.error), failure.error.exit_code) == ("ZeroDivisionError: division by zero", 1)
    assert "1 / 0" in failure.traceback
    assert messages(worker, "count", 1) == [Yielded(0), Finished()]  # and the process lives on


def test_a_gpu_that_other_programs_fill_is_no_bug() -> None:
    failure = failure_from(
        RuntimeError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in its manual.")
    )
    assert isinstance(failure.error, DeviceError)
    assert failure.error.exit_code == 3
    assert str(failure.error).startswith("the GPU has no memory left for a run; `nvidia-smi` shows")
    assert failure.traceback is None


@pytest.mark.parametrize("function", ["return_unpicklable", "yield_unpicklable"])
def test_a_value_that_cannot_be_sent_is_a_bug_with_a_traceback_and_the_process_lives_on(worker, function) -> None:
    pid = worker.call(worker_targets.identity)[0]
    (failure,) = messages(worker, function)
    assert isinstance(failure, Failed)
    assert "pickle" in str(failure.error)
    assert "Traceback" in failure.traceback
    assert not failure.is_lost
    assert worker.call(worker_targets.identity)[0] == pid


def test_a_process_whose_device_is_of_no_more_use_ends_and_can_be_revived(worker) -> None:
    pid = worker.call(worker_targets.identity)[0]
    (failure,) = messages(worker, "break_the_device")
    assert (failure.is_last, failure.is_lost) == (True, False)
    assert "Traceback" in failure.traceback
    worker.revive()
    assert worker.call(worker_targets.identity)[0] != pid


def test_call_raises_what_failed(worker) -> None:
    with pytest.raises(DataError, match="no data there") as caught:
        worker.call(worker_targets.complain)
    assert caught.value.exit_code == 3


def test_a_function_asked_to_stop_ends_at_its_next_yield_and_may_clean_up(worker, tmp_path) -> None:
    worker.submit(worker_targets.forever, tmp_path / "closed")
    assert worker.receive() == Yielded(0)
    worker.stop()
    while isinstance(message := worker.receive(), Yielded):
        pass
    assert message == Finished(stopped=True)
    assert (tmp_path / "closed").exists()
    worker.stop()  # too late for anything
    assert messages(worker, "count", 1) == [Yielded(0), Finished()]


def test_several_functions_go_on_in_turns_and_the_failure_of_one_is_its_own(worker, tmp_path) -> None:
    def submit(job: str, stop: int, fail_at: int) -> None:
        worker.submit(worker_targets.count_after_pauses, stop, fail_at, tmp_path / job, job=job)

    submit("c", 10**9, 10**9)
    received = [worker.receive_of_any()]  # it runs
    submit("b", 20, 1)
    while not (received[-1][0] == "b" and isinstance(received[-1][1], Failed)):
        received.append(worker.receive_of_any())
    submit("a", 20, 99)
    while received[-1] != ("a", Finished()):
        received.append(worker.receive_of_any())
    assert [message for job, message in received if job == "a"] == [*map(Yielded, range(20)), Finished()]
    first, failed = (message for job, message in received if job == "b")
    assert first == Yielded(0)
    assert str(failed.error) == "no 1"
    turns = [job for job, _ in received[received.index(("a", Yielded(0))) :]]
    assert abs(turns.count("a") - turns.count("c")) <= 2  # the end of one is a message too
    assert not (tmp_path / "c").exists()
    worker.stop("c")
    while isinstance((last := worker.receive_of_any())[1], Yielded):
        pass
    assert last == ("c", Finished(stopped=True))
    assert (tmp_path / "c").exists()
    assert messages(worker, "count", 1) == [Yielded(0), Finished()]


def test_where_the_parent_goes_away_all_functions_may_clean_up(tmp_path) -> None:
    with Worker() as worker:
        for job in "ab":
            worker.submit(worker_targets.count_after_pauses, 10**9, 10**9, tmp_path / job, job=job)
        for _ in range(10):
            worker.receive_of_any()
    assert all((tmp_path / job).exists() for job in "ab")


def test_ctrl_c_and_sigterm_do_not_reach_the_process(worker) -> None:
    pid = worker.call(worker_targets.identity)[0]
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    time.sleep(0.05)
    assert messages(worker, "count", 1) == [Yielded(0), Finished()]


def test_a_killed_process_is_told_and_can_be_revived(tmp_path) -> None:
    with Worker() as worker:
        pid = worker.call(worker_targets.identity)[0]
        worker.submit(worker_targets.forever, tmp_path / "closed")
        assert worker.receive() == Yielded(0)
        os.kill(pid, signal.SIGKILL)
        while isinstance(message := worker.receive(), Yielded):
            pass
        assert isinstance(message, Failed)
        assert isinstance(message.error, WorkerError)
        assert str(message.error) == "the training process was killed by SIGKILL (out of memory?)"
        worker.submit(worker_targets.count, 1)
        assert isinstance(worker.receive(), Failed)  # not a crash of the parent
        worker.revive()
        assert messages(worker, "count", 1) == [Yielded(0), Finished()]
        last = messages(worker, "leave", 7)[-1]
        assert str(last.error) == "the training process ended unexpectedly with exit code 7"


@pytest.mark.parametrize(
    ("preload", "found"), [(worker_targets.import_wave, True), (None, False), (worker_targets.import_nothing, False)]
)
def test_a_module_is_imported_ahead_and_a_broken_one_is_no_reason_to_die(preload: Any, found: bool) -> None:
    with Worker(preload=preload) as worker:
        assert worker.call(worker_targets.is_loaded, "wave") is found


def test_garbage_is_searched_for_but_not_among_what_is_imported_ahead() -> None:
    with Worker(preload=worker_targets.keep_whether_garbage_is_searched_for) as worker:
        assert worker.call(worker_targets.searches_for_garbage) == (False, True)


def test_a_dismissed_process_ends_on_its_own() -> None:
    with Worker() as worker:
        pid = worker.call(worker_targets.identity)[0]
        worker.dismiss()
        for _ in range(250):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return
            time.sleep(0.02)
        raise AssertionError("it is still there")


def test_an_orphan_cleans_up(tmp_path) -> None:
    """The parent goes away without a word: the function is closed, as after `stop`."""
    worker = Worker()
    worker.submit(worker_targets.forever, tmp_path / "closed")
    assert worker.receive() == Yielded(0)
    worker.connection.close()
    for _ in range(200):
        if (tmp_path / "closed").exists():
            break
        time.sleep(0.02)
    assert (tmp_path / "closed").exists()
    worker.kill()
