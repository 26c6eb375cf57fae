"""Grids and probes as runs: their order, identity and length."""

import json
from pathlib import Path

import pytest
import yaml

from normbench.config.load import LoadedConfig, load_config
from normbench.config.schema import RunConfig
from normbench.errors import ConfigError
from normbench.experiment.estimate import estimate_seconds
from normbench.experiment.plan import RunPlan, draft_runs, finish_plans, resolved_experiment
from normbench.runs.records import EXPERIMENT_FILE, read_run
from normbench.runs.writer import RunFolder, write_experiment
from normbench.tasks.classification import Summary
from normbench.tasks.task import EpochRow
from normbench.worker.targets import RunRequest, resolve_runs, train_run

SYNTHETIC = "device: cpu\ndataset: {name: synthetic, options: {num_train: 40, num_test: 30}}\n"


def load(tmp_path: Path, text: str) -> LoadedConfig:
    file = tmp_path / "exp.yaml"
    file.write_text(SYNTHETIC + text)
    return load_config(file)


def plan(loaded: LoadedConfig) -> list[RunPlan]:
    drafts = draft_runs(loaded)
    return finish_plans(drafts, resolve_runs(drafts))


def plans_of(tmp_path: Path, text: str) -> list[RunPlan]:
    return plan(load(tmp_path, text))


def test_all_norms_at_all_points_of_the_grid_come_with_the_first_seed_first(tmp_path: Path) -> None:
    plans = plans_of(tmp_path, "norms: [bn, gn]\nseeds: 2\ngrid: {train.batch_size: [8, 2]}\n")
    found = [(plan.config.seed, plan.config.train.batch_size, plan.config.norm.name) for plan in plans]
    assert found == [(seed, batch_size, norm) for seed in (0, 1) for batch_size in (8, 2) for norm in ("bn", "gn")]
    assert plans[2].point == "batch size 2"


def test_runs_without_grid_and_probe_keep_the_ids_they_always_had(tmp_path: Path) -> None:
    file = tmp_path / "exp.yaml"
    file.write_text(
        "norms: [bn, {name: gn, options: {groups: 8}, train: {lr: 3e-3}}]\ndevice: cpu\ndataset: synthetic\n"
    )
    plans = plan(load_config(file))
    assert [plan.run_id for plan in plans] == ["bn-norm_resnet-bs64-s0-a5b711a0", "gn-norm_resnet-bs64-s0-2f808f17"]


def test_options_that_were_added_later_do_not_change_the_ids_of_runs_without_them(tmp_path: Path) -> None:
    def ids(text: str) -> list[str]:
        file = tmp_path / "exp.yaml"
        file.write_text(f"device: cpu\ndataset: synthetic\n{text}")
        return [planned.run_id for planned in plan(load_config(file))]

    # The ids are those of before vit and bn had these options.
    assert ids("norms: [ln]\nmodel: {name: vit, options: {qk_norm: none}}\n") == ["ln-vit-bs64-s0-ce041c3e"]
    bn, uncentered = ids("norms: [{name: bn, options: {center: true}}, {name: bn, options: {center: false}}]\n")
    assert bn == "bn-norm_resnet-bs64-s0-a5b711a0"
    assert uncentered != bn


def test_a_scaled_run_is_the_run_that_its_own_config_describes(tmp_path: Path) -> None:
    text = "norms: [bn, {name: gn, train: {lr: 2e-3}}]\nlr_scaling: linear\ngrid: {train.batch_size: [16]}\n"
    for planned in plans_of(tmp_path, text):
        config = planned.config
        assert config.train.learning_rate == pytest.approx({"bn": 2.5e-4, "gn": 5e-4}[config.norm.name])
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        (again,) = plan(load_config(file))
        assert again.run_id == planned.run_id


def test_the_recorded_experiment_describes_the_same_runs(tmp_path: Path) -> None:
    text = (
        "norms: [bn, {name: gn, train: {lr: 2e-3}}]\nseeds: 2\nlr_scaling: sqrt\n"
        "grid: {train.batch_size: [16, 4], model: [norm_resnet, resnet9]}\n"
    )
    loaded = load(tmp_path, text)
    plans = plan(loaded)
    write_experiment(tmp_path, resolved_experiment(loaded.experiment, plans))
    again = plan(load_config(tmp_path / EXPERIMENT_FILE))
    assert [plan.run_id for plan in again] == [plan.run_id for plan in plans]


def test_a_probe_trains_every_norm_and_none_alike_on_single_images(tmp_path: Path) -> None:
    text = "norms: [bn, {name: gn, train: {lr: 0.5, batch_size: 8}}]\nseeds: 2\nbatch_one: {steps: 25}\n"
    plans = plans_of(tmp_path, text)
    assert [(plan.config.seed, plan.config.norm.name, plan.config.probe) for plan in plans[:5]] == [
        (0, "bn", None),
        (0, "gn", None),
        (0, "bn", "batch_one"),
        (0, "gn", "batch_one"),
        (0, "none", "batch_one"),
    ]
    trains = {plan.config.train.model_dump_json() for plan in plans if plan.config.probe}
    assert len(trains) == 1
    train = json.loads(trains.pop())
    assert (train["epochs"], train["batch_size"]) == (1, 1)
    assert train["learning_rate"] == pytest.approx(1e-3 / 8)  # the square root of 1/64
    assert {plan.config.dataset.options["num_train"] for plan in plans if plan.config.probe} == {25}
    sgd = plans_of(tmp_path, "norms: [none]\ntrain: {optimizer: sgd, lr: 0.64}\nbatch_one: {steps: 25}\n")
    assert [plan.config.train.learning_rate for plan in sgd] == pytest.approx([0.64, 0.01])
    given = plans_of(tmp_path, "norms: [none]\nbatch_one: {steps: 25, lr: 1e-4}\n")
    assert given[1].config.train.learning_rate == 1e-4


def test_a_probe_takes_no_more_images_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"exp.yaml:4: batch_one.steps: 41 steps take as many images; .* has 40"):
        plans_of(tmp_path, "norms: [bn]\nbatch_one: {steps: 41}\n")


def test_a_run_of_a_probe_can_be_run_again_from_its_config(tmp_path: Path) -> None:
    probe = plans_of(tmp_path, "norms: [bn]\nbatch_one: {steps: 25}\n")[1]
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(probe.config.model_dump(mode="json")))
    (again,) = plan(load_config(file))
    assert again.run_id == probe.run_id


def test_a_probe_takes_its_steps_and_measures_both_accuracies(tmp_path: Path) -> None:
    config = plans_of(tmp_path, "norms: [bn]\nbatch_one: {steps: 6}\n")[1].config
    events = list(train_run(RunRequest(config, tmp_path, None, resume=False, keep_checkpoint=False)))
    summary = events[-1].summary
    assert summary.num_steps == 6
    assert summary.batch_statistics_accuracy in [correct / 30 for correct in range(31)]
    ordinary = RunConfig.model_validate(config.model_dump() | {"probe": None})
    events = list(train_run(RunRequest(ordinary, tmp_path, None, resume=False, keep_checkpoint=False)))
    assert events[-1].summary.batch_statistics_accuracy is None


def record(folder: Path, config: RunConfig, epoch_seconds: float) -> None:
    run = RunFolder(folder).acquire()
    run.begin(config)
    for epoch in (1, 2):
        run.append_epoch(
            EpochRow(
                epoch=epoch, num_steps=epoch, train_loss=1, train_accuracy=0.5, test_loss=1, test_accuracy=0.5,
                train_seconds=epoch_seconds, test_seconds=1.0, learning_rate=1e-3,
            )
        )  # fmt: skip
    run.finish(
        Summary(
            test_accuracy=0.5, test_loss=1, train_accuracy=0.5, train_loss=1, num_epochs=2, num_steps=2,
            num_parameters=1, train_seconds=2 * epoch_seconds, epoch_seconds=epoch_seconds, startup_seconds=3.0,
            peak_memory_mib=None, images_per_second=1,
        ),
        keep_checkpoint=False,
    )  # fmt: skip
    run.release()
    assert read_run(folder).summary is not None


def test_time_is_estimated_from_recorded_runs_of_the_same_kind(tmp_path: Path) -> None:
    plans = plans_of(tmp_path, "norms: [bn, gn]\nseeds: 3\ntrain: {epochs: 10}\n")
    by_key = {(plan.config.norm.name, plan.config.seed): plan for plan in plans}
    record(tmp_path / "other" / "a", by_key["bn", 0].config, epoch_seconds=4.0)
    record(tmp_path / "other" / "b", by_key["bn", 1].config, epoch_seconds=6.0)
    larger = by_key["gn", 0].config.model_dump() | {"train": {**by_key["gn", 0].config.train.model_dump()}}
    larger["train"]["batch_size"] = 128
    record(tmp_path / "other" / "c", RunConfig.model_validate(larger), epoch_seconds=6.0)
    seconds = estimate_seconds([by_key["bn", 2], by_key["gn", 2]], tmp_path)
    assert seconds == [pytest.approx(3 + 10 * (5 + 1)), None]
