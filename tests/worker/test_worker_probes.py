"""Probes in a real run in this process: what is recorded, that training stays the same, and that a run goes on."""

from pathlib import Path

import pytest
import torch
from local_worker import LocalWorker
from run_events import make_plan

from normbench.config.probes import ProbesConfig
from normbench.config.schema import ModelConfig
from normbench.engine.probes.moment import Moment
from normbench.experiment.executor import LocalExecutor
from normbench.experiment.plan import RunPlan
from normbench.experiment.progress import shortcoming
from normbench.experiment.runner import ExperimentEvent, ExperimentRunner, RunProgressed
from normbench.runs.events import ProbeFailed, ProbeMeasured, Started
from normbench.runs.records import RunRecord, read_experiment, read_run
from normbench.worker.targets import RunRequest, train_run

PLAN = make_plan("bn", augment="crop_flip")  # 40 images: 3 steps an epoch, the last of 8 images
STEPS = {"landscape": [0, 2, 4], "signals": [0, 1, 2, 3, 4, 5], "curvature": [0, 4]}


def changed(plan: RunPlan, **changes: object) -> RunPlan:
    config = plan.config.model_copy(update=changes)
    return RunPlan(config.run_id, config, 0)


def with_probes(plan: RunPlan, **probes: object) -> RunPlan:
    return changed(plan, probes=ProbesConfig.model_validate(probes))


PLAIN = changed(PLAN, model=ModelConfig(name="norm_resnet_small"))
PROBED = with_probes(
    PLAIN, landscape={"every": 2}, signals={"every": 1, "samples": 4}, curvature={"every": 4, "iterations": 2}
)


def train(folder: Path, plan: RunPlan, stop_after: int | None = None) -> tuple[RunRecord, list[ExperimentEvent]]:
    events: list[ExperimentEvent] = []
    runner = ExperimentRunner(folder, LocalExecutor([LocalWorker()]), events.append)
    runner.run(
        [plan], lambda: stop_after is not None and sum(isinstance(e, RunProgressed) for e in events) >= stop_after
    )
    return read_run(folder / plan.run_id), events


def texts(record: RunRecord) -> dict[str, str]:
    return {path.name: path.read_text() for path in (record.folder / "probes").iterdir()}


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return train(tmp_path_factory.mktemp("probed"), PROBED)[0]


def test_training_is_the_same_bits_with_and_without_probes(probed: RunRecord, tmp_path: Path) -> None:
    plain, _ = train(tmp_path, PLAIN)
    assert plain.total_losses.tolist() == probed.total_losses.tolist()
    assert [row.test_loss for row in plain.epochs] == [row.test_loss for row in probed.epochs]
    assert not (plain.folder / "probes").exists()
    assert "probes" not in (plain.folder / "config.yaml").read_text()
    assert plain.run_id != probed.run_id


def test_a_row_is_recorded_before_every_step_that_was_asked_for(probed: RunRecord) -> None:
    assert {name: [row.step for row in rows] for name, rows in probed.probe_rows.items()} == STEPS
    losses = [row.loss for row in probed.probe_rows["landscape"]]  # of the batch, and the weights, of the step
    assert losses == pytest.approx(probed.total_losses[::2].tolist(), rel=1e-6)
    assert probed.unreadable == ()


def test_the_loss_of_a_batch_in_parts_is_that_of_the_step(tmp_path: Path) -> None:
    plan = changed(PLAIN, train=PLAIN.config.train.model_copy(update={"micro_batch": 5}))
    record, _ = train(tmp_path, with_probes(plan, landscape={"every": 1}))
    losses = [row.loss for row in record.probe_rows["landscape"]]
    assert losses == pytest.approx(record.total_losses.tolist(), rel=1e-6)


def test_an_interrupted_run_ends_with_the_rows_of_an_uninterrupted_one(probed: RunRecord, tmp_path: Path) -> None:
    for stop_after in (1, 2, 1):
        cut, _ = train(tmp_path, PROBED, stop_after)
        assert cut.status.state == "interrupted"
        assert cut.probe_rows["landscape"]
    record, _ = train(tmp_path, PROBED)
    assert record.status.state == "completed"
    assert texts(record) == texts(probed)
    assert record.total_losses.tolist() == probed.total_losses.tolist()


def test_a_run_stopped_between_a_measurement_and_its_step_measures_once(tmp_path: Path) -> None:
    request = RunRequest(PROBED.config, tmp_path, None, False, False)
    events = train_run(request)
    seen = [next(events) for _ in range(2)]
    assert isinstance(seen[1], ProbeMeasured)
    events.close()
    again = train_run(RunRequest(PROBED.config, tmp_path, None, True, False))
    started = next(again)
    assert isinstance(started, Started)
    assert [row.step for row in started.probe_rows["landscape"]] == [0]
    rest = [event for event in again if isinstance(event, ProbeMeasured)]
    assert [e.row.step for e in rest if e.name == "landscape"] == [2, 4]
    assert [e.row.step for e in rest if e.name == "signals"] == STEPS["signals"]


def test_rows_beyond_the_checkpoint_are_replaced(probed: RunRecord, tmp_path: Path) -> None:
    cut, _ = train(tmp_path, PROBED, stop_after=1)
    for file in (cut.folder / "probes").iterdir():  # what a killed process wrote after its last checkpoint
        file.write_text(file.read_text() + (probed.folder / "probes" / file.name).read_text().splitlines(True)[-1])
    record, _ = train(tmp_path, PROBED)
    assert texts(record) == texts(probed)


def test_a_probe_that_cannot_measure_is_named_and_training_goes_on(
    probed: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from normbench.engine.probes.curvature import CurvatureProbe

    def fail(self: object, moment: Moment) -> None:
        torch.randn(3)  # random numbers that training must not miss
        for tensor in moment.model.state_dict().values():
            tensor.zero_()  # of the copy
        raise RuntimeError("derivative for aten::fused is not implemented\nat length")

    monkeypatch.setattr(CurvatureProbe, "measure", fail)
    record, events = train(tmp_path, PROBED)
    (failed,) = [e.event for e in events if isinstance(e, RunProgressed) and isinstance(e.event, ProbeFailed)]
    assert shortcoming(failed) == (
        "training goes on without the probe curvature: derivative for aten::fused is not implemented"
    )
    assert record.status.state == "completed"
    assert record.environment["probe_curvature"] == "derivative for aten::fused is not implemented"
    assert [row.step for row in record.probe_rows["signals"]] == STEPS["signals"]
    assert record.probe_rows["curvature"] == ()
    assert record.total_losses.tolist() == probed.total_losses.tolist()


def test_a_damaged_probe_is_named_and_left_out(tmp_path: Path) -> None:
    record, _ = train(tmp_path, PROBED)
    file = record.folder / "probes" / "landscape.jsonl"
    good = file.read_text().splitlines()
    for text, problem in (
        ('{"step": 0}\n', "loss: Field required"),
        (good[1] + "\n" + good[0] + "\n", "its steps do not increase"),
        (good[0].replace("[", "[1.0,", 1) + "\n", "not one loss, distance and cosine for each step size"),
        ("nonsense\n", "Invalid JSON"),
    ):
        file.write_text(text)
        again = read_run(record.folder)
        assert "landscape" not in again.probe_rows
        assert [row.step for row in again.probe_rows["signals"]] == STEPS["signals"]
        assert problem in again.unreadable[0]
        assert read_experiment(tmp_path).unreadable == again.unreadable
    file.unlink()
    file.mkdir()
    assert (
        "not a regular file" in read_run(record.folder).unreadable[0]
        or "directory" in read_run(record.folder).unreadable[0].lower()
    )
