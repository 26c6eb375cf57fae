"""Which run goes to which process, and what becomes of runs that fail beside others."""

from __future__ import annotations

from multiprocessing import Pipe
from typing import Any

import pytest
from run_events import make_plan

from normbench.config.schema import Code
from normbench.errors import DataError, NormBenchError, OutOfMemoryError, WorkerError
from normbench.experiment.executor import LocalExecutor, Postponed
from normbench.experiment.plan import RunPlan
from normbench.experiment.worker_process import Failed, Finished, Message
from normbench.worker.targets import RunRequest


class ScriptedWorker:
    """Says what a test tells it to say."""

    def __init__(self) -> None:
        self.connection, self._other = Pipe()
        self.requests: dict[str, RunRequest] = {}
        self.num_revived = 0

    def submit(self, function: Any, request: RunRequest, *, job: str) -> None:
        self.requests[job] = request

    def say(self, job: str, message: Message) -> None:
        self._other.send((job, message))

    def receive_of_any(self) -> tuple[str, Message]:
        return self.connection.recv()

    def revive(self) -> None:
        self.num_revived += 1


def out_of_memory() -> NormBenchError:
    return OutOfMemoryError("cuda", 64, "norm_resnet", MemoryError("none left"))


def fill(executor: LocalExecutor, waiting: list[RunPlan]) -> list[str]:
    """Start what there is room for and take it off `waiting`; return the run ids in the order of their start."""
    started = []
    while (position := executor.choose(waiting)) is not None:
        plan = waiting.pop(position)
        executor.submit(plan.run_id, RunRequest(plan.config, None, None, False, False))  # type: ignore[arg-type]
        started.append(plan.run_id)
    return started


def told(executor: LocalExecutor) -> list[tuple[str, Any]]:
    return list(executor.wait(1.0))


def ids(plans: list[RunPlan]) -> list[str]:
    return [plan.run_id for plan in plans]


BN, GN, NONE = ([make_plan(norm, seed) for seed in range(3)] for norm in ("bn", "gn", "none"))


def test_a_process_gets_as_many_runs_as_it_trains_at_once() -> None:
    worker = ScriptedWorker()
    executor, waiting = LocalExecutor([worker], 2), [*BN]
    assert fill(executor, waiting) == ids(BN[:2])
    assert [request.runs_at_once for request in worker.requests.values()] == [2, 2]
    worker.say(BN[0].run_id, Finished())
    assert told(executor) == [(BN[0].run_id, Finished())]
    assert fill(executor, waiting) == ids(BN[2:])
    assert worker.num_revived == 1  # never while it trains something


def test_processes_share_the_runs_evenly_and_the_seeds_of_a_norm_stay_together() -> None:
    first, second = ScriptedWorker(), ScriptedWorker()
    executor = LocalExecutor([first, second], 3)
    waiting = [*BN[:2], *GN[:2], NONE[0]]
    fill(executor, waiting)
    assert not waiting
    assert sorted(first.requests) == sorted(ids([*BN[:2], NONE[0]]))
    assert sorted(second.requests) == sorted(ids(GN[:2]))


def test_a_process_helps_with_the_seeds_of_a_norm_where_nothing_else_is_left() -> None:
    first, second = ScriptedWorker(), ScriptedWorker()
    fill(LocalExecutor([first, second], 2), [*BN])
    assert (len(first.requests), len(second.requests)) == (2, 1)


def test_what_is_known_to_take_long_goes_before_what_is_known_to_be_short(monkeypatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("normbench.experiment.executor.time.monotonic", lambda: clock[0])
    worker = ScriptedWorker()
    executor = LocalExecutor([worker], 2)
    fill(executor, [BN[0], GN[0]])
    for plan, clock[0] in ((BN[0], 1.0), (GN[0], 5.0)):
        worker.say(plan.run_id, Finished())
        told(executor)
    waiting = [BN[1], GN[1], NONE[0]]
    assert fill(executor, waiting) == ids([NONE[0], GN[1]])  # what nothing is known of goes first
    assert waiting == [BN[1]]


@pytest.mark.parametrize(
    "other",
    [make_plan("gn", precision="bf16"), make_plan("gn", reproducible=False), make_plan("gn", engine="compile")],
    ids=["another precision", "other arithmetic", "compiled"],
)
def test_runs_of_other_arithmetic_wait_until_the_process_is_free(other: RunPlan) -> None:
    worker = ScriptedWorker()
    executor, waiting = LocalExecutor([worker], 3), [BN[0], other, NONE[0]]
    assert fill(executor, waiting) == ids([BN[0], NONE[0]])
    for plan in (BN[0], NONE[0]):
        worker.say(plan.run_id, Finished())
        told(executor)
    assert fill(executor, waiting) == [other.run_id]


def test_code_of_a_users_own_is_trained_alone() -> None:
    """It may draw from the random numbers of the process."""
    config = BN[0].config
    norm = config.norm.model_copy(update={"code": Code(file="own.py", sha256="0" * 64)})
    own = RunPlan("own", config.model_copy(update={"norm": norm}), 0)
    worker = ScriptedWorker()
    executor, waiting = LocalExecutor([worker], 3), [own, *GN]
    assert fill(executor, waiting) == ["own"]
    assert worker.requests["own"].runs_at_once == 1
    worker.say("own", Failed(out_of_memory()))
    assert isinstance(told(executor)[0][1], Failed)
    assert fill(executor, waiting) == ids(GN)


def test_out_of_memory_beside_others_is_not_the_end_and_leaves_room_for_fewer() -> None:
    worker = ScriptedWorker()
    executor, waiting = LocalExecutor([worker], 3), [*BN]
    fill(executor, waiting)
    failure = Failed(out_of_memory())
    worker.say(BN[2].run_id, failure)
    ((run_id, message),) = told(executor)
    assert (run_id, message.runs_at_once, str(message.failure.error)) == (BN[2].run_id, 2, str(failure.error))
    assert fill(executor, [BN[2]]) == []  # the two others fill it
    worker.say(BN[0].run_id, Finished())
    told(executor)
    assert fill(executor, [BN[2]]) == [BN[2].run_id]
    assert worker.requests[BN[2].run_id].runs_at_once == 2
    worker.say(BN[2].run_id, failure)
    ((_, message),) = told(executor)
    assert message.runs_at_once == 1
    worker.say(BN[1].run_id, Finished())
    told(executor)
    assert fill(executor, [BN[2]]) == [BN[2].run_id]
    worker.say(BN[2].run_id, failure)
    ((_, message),) = told(executor)
    assert isinstance(message, Failed)  # alone it is


def test_another_failure_is_the_runs_own() -> None:
    worker = ScriptedWorker()
    executor = LocalExecutor([worker], 3)
    fill(executor, [*BN])
    worker.say(BN[1].run_id, Failed(DataError("none")))
    ((run_id, message),) = told(executor)
    assert run_id == BN[1].run_id
    assert isinstance(message, Failed)
    assert fill(executor, [NONE[0]]) == [NONE[0].run_id]


@pytest.mark.parametrize("how", [{"is_lost": True}, {"is_last": True}], ids=["killed", "a fault of the GPU"])
def test_runs_that_are_lost_together_are_trained_one_by_one(how: dict[str, bool]) -> None:
    """Which of them was to blame is not known: a fault may show in the next one's turn."""
    worker = ScriptedWorker()
    executor = LocalExecutor([worker], 2)
    fill(executor, BN[:2])
    failure = Failed(WorkerError("gone"), **how)  # type: ignore[arg-type]
    worker.say(BN[0].run_id, failure)
    found = told(executor)
    assert [run_id for run_id, _ in found] == ids(BN[:2])
    assert all(isinstance(message, Postponed) and message.runs_at_once == 1 for _, message in found)
    waiting = [*BN]
    assert fill(executor, waiting) == [BN[0].run_id]
    worker.say(BN[0].run_id, failure)
    assert isinstance(told(executor)[0][1], Failed)
    assert fill(executor, waiting) == [BN[1].run_id]
    worker.say(BN[1].run_id, Finished())
    told(executor)
    assert fill(executor, [*GN]) == ids(GN[:2])  # those that were not lost go side by side
