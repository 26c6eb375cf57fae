"""A real run in this process: what it sends, and that an interrupted one ends as if nothing had happened."""

import errno
import io
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from local_worker import LocalWorker
from run_events import make_plan

from normbench.config.schema import DatasetConfig
from normbench.engine.checkpoint import CheckpointError, save_checkpoint
from normbench.errors import DataError, OutOfMemoryError
from normbench.experiment.executor import LocalExecutor
from normbench.experiment.runner import ExperimentRunner, RunEnded, RunProgressed
from normbench.runs.events import CheckpointFailed, EpochDone, FactsLearned, Started, StepsDone, TrainingDone
from normbench.runs.records import RunRecord, Status, read_run
from normbench.worker import train_run as module
from normbench.worker.targets import RunRequest, check_data, train_run

PLAN = make_plan("gn", schedule="cosine", augment="crop_flip")  # 40 images: 3 steps an epoch


def events_of(folder: Path, *, resume: bool = False, keep_checkpoint: bool = False) -> Iterator[Any]:
    return train_run(RunRequest(PLAN.config, folder, None, resume, keep_checkpoint))


def train(folder: Path, stop_after: int | None = None) -> RunRecord:
    """Run the plan, or go on with it; stop after a number of reports."""
    events = []
    runner = ExperimentRunner(folder, LocalExecutor([LocalWorker()]), events.append)
    runner.run(
        [PLAN], lambda: stop_after is not None and sum(isinstance(e, RunProgressed) for e in events) >= stop_after
    )
    assert isinstance(events[-1], RunEnded)
    return read_run(folder / PLAN.run_id)


def without_times(record: RunRecord) -> tuple:
    rows = [
        {key: value for key, value in row.model_dump().items() if not key.endswith("seconds")} for row in record.epochs
    ]
    return record.total_losses.tolist(), rows, record.summary.test_accuracy, record.summary.test_loss


def test_a_run_interrupted_twice_records_exactly_what_an_uninterrupted_one_does(tmp_path) -> None:
    straight = train(tmp_path / "straight")
    assert len(straight.total_losses) == 6
    first = train(tmp_path / "cut", stop_after=1)  # inside the first epoch
    assert (first.status.state, len(first.total_losses)) == ("interrupted", 1)
    second = train(tmp_path / "cut", stop_after=3)  # inside the second
    assert (second.status.state, len(second.epochs)) == ("interrupted", 1)
    third = train(tmp_path / "cut")
    assert third.status.state == "completed"
    assert without_times(third) == without_times(straight)
    assert not (third.folder / "checkpoint.pt").exists()


def test_the_environment_says_what_a_result_depends_on(tmp_path) -> None:
    events = events_of(tmp_path)
    facts = next(events).facts
    events.close()
    assert facts["torch"] == torch.__version__
    assert (facts["device"], facts["precision"], facts["engine"]) == ("cpu", "fp32", "eager")
    assert (facts["dataset"], facts["is_synthetic"], facts["memory_format"]) == ("synthetic", True, "channels_last")


@pytest.mark.parametrize(
    ("norm", "path"),
    [
        ("gn", "native: no fused kernels on cpu"),
        ("custom_bn", "native: no fused kernel for this norm"),
        ("none", "no norm layers"),
    ],
)
def test_how_the_norms_ran_is_recorded(tmp_path, norm: str, path: str) -> None:
    plan = make_plan(norm, epochs=1)
    ExperimentRunner(tmp_path, LocalExecutor([LocalWorker()]), lambda _: None).run([plan])
    environment = read_run(tmp_path / plan.run_id).environment
    assert (environment["norm_path"], environment["engine"]) == (path, "eager")
    assert environment["same_bits"] == "yes"


def test_a_run_that_goes_on_elsewhere_promises_no_bits(tmp_path) -> None:
    train(tmp_path, stop_after=2)
    file = tmp_path / PLAN.run_id / "environment.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"torch": "1.13.1"}))
    for stop_after in (2, None):  # nor does it later, where it goes on in one place
        record = train(tmp_path, stop_after)
        assert record.environment["same_bits"].startswith("no: it began on ")
        assert "torch 1.13.1" in record.environment["same_bits"]


def test_a_checkpoint_holds_nothing_that_unpickling_could_execute(tmp_path) -> None:
    events = events_of(tmp_path, keep_checkpoint=True)
    kinds = [type(event) for event in events]
    # How many reports of steps there are depends on how long they take.
    assert [kind for kind in kinds if kind is not StepsDone] == [
        Started,
        FactsLearned,
        EpochDone,
        EpochDone,
        TrainingDone,
    ]
    assert kinds[1:3] == [StepsDone, FactsLearned]
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert len(state["rows"]) == 2
    assert state["losses"].shape == (6, 1)
    resumed = list(events_of(tmp_path, resume=True))  # a finished training has nothing left to do
    assert [type(event) for event in resumed] == [Started, TrainingDone]


def test_a_checkpoint_is_saved_from_time_to_time(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "MIN_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(module, "MAX_CHECKPOINT_SHARE", math.inf)
    events = events_of(tmp_path)
    seen = [next(events) for _ in range(4)]
    assert isinstance(seen[-1], StepsDone)
    assert len(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["losses"]) == 1  # as of the step report before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_training_goes_on_without_a_checkpoint_that_cannot_be_written(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "MIN_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(module, "MAX_CHECKPOINT_SHARE", math.inf)
    monkeypatch.setattr(module, "SECONDS_AFTER_FAILED_CHECKPOINT", 0.0)
    kinds = [type(event) for event in events_of(tmp_path / "missing")]
    assert kinds.count(CheckpointFailed) == 4
    assert kinds[-1] == TrainingDone


def interrupted(folder: Path) -> Path:
    """Return the checkpoint of a run that was stopped after its first step."""
    events = events_of(folder)
    assert isinstance([next(events) for _ in range(2)][-1], StepsDone)
    events.close()
    return folder / "checkpoint.pt"


def results(events: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return all losses, and the rows' numbers but for the times."""
    started = events[0]
    losses = [*started.losses, *(loss for event in events if isinstance(event, StepsDone) for loss in event.losses)]
    rows = [*started.rows, *(event.row for event in events if isinstance(event, EpochDone))]
    return losses, [(row.train_loss, row.train_accuracy, row.test_loss, row.test_accuracy) for row in rows]


def flip_a_bit(checkpoint: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)


def make_foreign(checkpoint: Path) -> None:
    other = make_plan("gn", seed=1, schedule="cosine", augment="crop_flip").config
    events = train_run(RunRequest(other, checkpoint.parent, None, False, False))
    next(events)
    events.close()


def rewrite(**changes: Any) -> Callable[[Path], None]:
    """Change numbers in a checkpoint as 81b8718 wrote it: without a digest."""

    def change(checkpoint: Path) -> None:
        torch.save({**torch.load(checkpoint, weights_only=True), **changes}, checkpoint)

    return change


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:1000]),
    "a bit": flip_a_bit,
    "foreign": make_foreign,
    "appended": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "nan losses": rewrite(losses=torch.full((1, 1), torch.nan)),
    "losses of another shape": rewrite(losses=torch.zeros(3, 3)),
    "no losses": rewrite(losses=torch.zeros(0, 1)),
    "negative count": rewrite(num_correct=-5),
    "huge count": rewrite(num_correct=10**9),
    "far step": rewrite(step_in_epoch=10**6, losses=torch.zeros(10**6, 1)),
    "no optimizer": lambda path: rewrite(optimizer={**torch.load(path, weights_only=True)["optimizer"], "state": {}})(
        path
    ),
    "no dict": lambda path: torch.save([1], path),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], list[Any]]:
    return results(list(events_of(tmp_path_factory.mktemp("undisturbed"))))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_cannot_be_trusted_costs_its_progress_and_a_warning(
    tmp_path, undisturbed, damage: str
) -> None:
    checkpoint = interrupted(tmp_path)
    DAMAGES[damage](checkpoint)
    events = list(events_of(tmp_path, resume=True))
    assert (events[0].rows, events[0].losses) == ((), ())
    (problem,) = events[0].problems
    assert problem.startswith(f"{checkpoint}: the checkpoint cannot be used (")
    assert problem.endswith("); the run starts anew")
    assert results(events) == undisturbed


def test_a_checkpoint_without_a_digest_is_still_taken(tmp_path, undisturbed) -> None:
    rewrite()(interrupted(tmp_path))
    events = list(events_of(tmp_path, resume=True))
    assert len(events[0].losses) == 1
    assert not events[0].problems
    assert results(events) == undisturbed


def test_a_flipped_bit_of_a_checkpoint_without_a_digest_is_found(tmp_path) -> None:
    checkpoint = interrupted(tmp_path)
    rewrite()(checkpoint)
    flip_a_bit(checkpoint)
    assert next(events_of(tmp_path, resume=True)).problems


def test_checkpoints_take_about_a_fiftieth_of_the_time(tmp_path, monkeypatch) -> None:
    """By a clock on which a step takes a second and a checkpoint ten; the first comes as soon as it may."""
    now = 0.0
    saved_at = []

    class Time:
        @staticmethod
        def monotonic() -> float:
            return now

    def save(*_: object) -> None:
        nonlocal now
        now += 10
        saved_at.append(now)

    class Run:
        class trainer:
            @staticmethod
            def run() -> Iterator[StepsDone]:
                nonlocal now
                for step in range(2000):
                    now += 1
                    yield StepsDone(1, step, ((1.0,),), 2000, 0.1, 1.0)

    monkeypatch.setattr(module, "time", Time)
    monkeypatch.setattr(module, "_save", save)
    monkeypatch.setattr(module, "_how_steps_run", lambda *_: {})
    request = RunRequest(PLAN.config, tmp_path, None, False, False)
    for _ in module._train(Run, request, {}):  # type: ignore[arg-type]
        pass
    assert saved_at[0] == 11
    assert saved_at[1:] == [11 + 510 * count for count in range(1, len(saved_at))]  # ten seconds of each 510
    assert len(saved_at) == 4


@pytest.mark.parametrize(("writer", "saves"), [(None, True), (1, True), (2, True), (3, False)])
def test_an_orphan_leaves_the_run_to_the_process_that_goes_on_with_it(
    tmp_path, monkeypatch, writer: int | None, saves: bool
) -> None:
    """Process 2 had begun the run before, 1 is the parent, and 3 goes on with what that has left."""

    class Parent:
        pid = 1

    def write_status(pid: int) -> None:
        status = Status(state="running", started_at="2026-11-28T12:00:00+00:00", pid=pid)
        (tmp_path / "status.json").write_text(status.model_dump_json())

    monkeypatch.setattr("multiprocessing.parent_process", lambda: Parent)
    if writer is not None:
        write_status(2)
    events = events_of(tmp_path)
    next(events)
    if writer is not None:
        write_status(writer)
    events.close()
    assert (tmp_path / "checkpoint.pt").exists() == saves


def test_no_room_for_a_checkpoint_is_called_so(tmp_path, monkeypatch) -> None:
    class Full(io.BytesIO):
        def write(self, *_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        fileno = staticmethod(lambda: 0)

    monkeypatch.setattr(Path, "open", lambda *_: Full())
    with pytest.raises(
        CheckpointError, match=r"checkpoint.pt: the checkpoint cannot be written: No space left on device$"
    ):
        save_checkpoint({"weights": torch.zeros(100)}, tmp_path / "checkpoint.pt", "run")


def test_a_device_that_gives_nothing_away_any_more_is_a_checkpoint_that_cannot_be_written(tmp_path) -> None:
    class Lost:
        def __reduce__(self) -> str:
            raise RuntimeError("CUDA error: device-side assert triggered\nSearch for it")

    with pytest.raises(CheckpointError, match=r"cannot be written: CUDA error: device-side assert triggered$"):
        save_checkpoint({"weights": Lost()}, tmp_path / "checkpoint.pt", "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: 12 bytes"),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: out of memory"),
    ],
    ids=str,
)
def test_too_little_memory_names_batch_size_and_model(tmp_path, monkeypatch, error: Exception) -> None:
    def fail(self: object) -> None:
        raise error

    monkeypatch.setattr("normbench.engine.step.eager.EagerStep.run", lambda *_: fail(None))
    with pytest.raises(OutOfMemoryError, match="out of memory on cpu at batch size 16 of norm_resnet_small: "):
        list(events_of(tmp_path))


def test_missing_data_is_found_before_any_run(tmp_path) -> None:
    cifar10 = PLAN.config.model_copy(update={"dataset": DatasetConfig(name="cifar10")})
    with pytest.raises(DataError, match="not found") as caught:
        check_data(cifar10, tmp_path, None)
    assert caught.value.exit_code == 3
