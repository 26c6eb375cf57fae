"""A real run in this process: what it sends, and that an interrupted one ends as if nothing had happened."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from local_worker import LocalWorker
from run_events import make_plan

from normbench.config.schema import DatasetConfig
from normbench.engine.checkpoint import CheckpointError
from normbench.errors import DataError
from normbench.experiment.runner import ExperimentRunner, RunEnded, RunProgressed
from normbench.runs.events import CheckpointFailed, EpochDone, FactsLearned, Started, StepsDone, TrainingDone
from normbench.runs.records import RunRecord, read_run
from normbench.worker import train_run as module
from normbench.worker.targets import RunRequest, check_data, train_run

PLAN = make_plan("gn", schedule="cosine", augment="crop_flip")  # 40 images: 3 steps an epoch


def events_of(folder: Path, *, resume: bool = False, keep_checkpoint: bool = False) -> Iterator[Any]:
    return train_run(RunRequest(PLAN.config, folder, None, resume, keep_checkpoint))


def train(folder: Path, stop_after: int | None = None) -> RunRecord:
    """Run the plan, or go on with it; stop after a number of reports."""
    events = []
    runner = ExperimentRunner(folder, [LocalWorker()], events.append)
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
        ("brn", "native: no fused kernel for this norm"),
        ("none", "no norm layers"),
    ],
)
def test_how_the_norms_ran_is_recorded(tmp_path, norm: str, path: str) -> None:
    plan = make_plan(norm, epochs=1)
    ExperimentRunner(tmp_path, [LocalWorker()], lambda _: None).run([plan])
    environment = read_run(tmp_path / plan.run_id).environment
    assert (environment["norm_path"], environment["engine"]) == (path, "eager")


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
    monkeypatch.setattr(module, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    events = events_of(tmp_path)
    seen = [next(events) for _ in range(4)]
    assert isinstance(seen[-1], StepsDone)
    assert len(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["losses"]) == 1  # as of the step report before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_training_goes_on_without_a_checkpoint_that_cannot_be_written(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    kinds = [type(event) for event in events_of(tmp_path / "missing")]
    assert kinds.count(CheckpointFailed) == 4
    assert kinds[-1] == TrainingDone


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off"])
def test_a_damaged_checkpoint_is_told_with_the_way_out(tmp_path, content: bytes) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"cannot be read .* --retry trains the run anew"):
        list(events_of(tmp_path, resume=True))


def test_missing_data_is_found_before_any_run(tmp_path) -> None:
    cifar10 = PLAN.config.model_copy(update={"dataset": DatasetConfig(name="cifar10")})
    with pytest.raises(DataError, match="not found") as caught:
        check_data(cifar10, tmp_path, None)
    assert caught.value.exit_code == 3
