"""From a config to runs: order, identity, and all that is refused before any training."""

import hashlib
import json
import re
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest
import yaml

from normbench.config.load import LoadedConfig, load_config
from normbench.config.schema import RunConfig
from normbench.errors import ConfigError, DeviceError, UnknownNameError
from normbench.experiment.plan import RunPlan, draft_runs, finish_plans, resolved_experiment
from normbench.runs.records import CONFIG_FILE, EXPERIMENT_FILE
from normbench.runs.writer import RunFolder, write_experiment
from normbench.worker.targets import DraftError, resolve_runs

CONFIGS = [file for file in sorted((Path(__file__).parents[2] / "configs").glob("*.yaml")) if file.stem != "style"]


def load(text: str, tmp_path: Path) -> LoadedConfig:
    file = tmp_path / "exp.yaml"
    file.write_text(text)
    return load_config(file)


def plan(loaded: LoadedConfig) -> list[RunPlan]:
    drafts = draft_runs(loaded)
    return finish_plans(drafts, resolve_runs(drafts))


def plans_of(text: str, tmp_path: Path) -> list[RunPlan]:
    return plan(load(f"device: cpu\ndataset: synthetic\n{text}", tmp_path))


def test_runs_go_seed_by_seed_so_that_early_results_have_all_norms(tmp_path) -> None:
    plans = plans_of("norms: [bn, gn]\nseeds: [4, 2]\n", tmp_path)
    assert [(plan.config.norm.name, plan.config.seed) for plan in plans] == [("bn", 4), ("gn", 4), ("bn", 2), ("gn", 2)]


def test_a_plan_leaves_nothing_to_decide(tmp_path) -> None:
    config = plans_of("norm: {name: gn, options: {groups: 8}}\n", tmp_path)[0].config
    assert (config.device, config.train.precision, config.train.engine) == ("cpu", "fp32", "eager")
    assert config.norm.options["groups"] == 8
    assert config.norm.options["eps"] == 1e-5  # a default, written out
    assert config.dataset.options["num_train"] > 0
    assert config.label == "GN (groups=8)"


def test_labels_tell_options_and_weight_methods_apart(tmp_path) -> None:
    text = "norms: [gn, gn+ws, {name: gn, options: {groups: 8}}, {name: bn, label: mine}]\n"
    labels = [plan.config.label for plan in plans_of(text, tmp_path)]
    assert labels == ["GN", "GN+WS", "GN (groups=8)", "mine"]


def test_two_norms_of_one_label_are_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"exp.yaml:1: norms.1: two norms are called 'GN'; give each its own label"):
        draft_runs(load("norms: [gn, {name: gn, train: {lr: 0.1}}]\n", tmp_path))


def test_the_same_run_twice_is_planned_once(tmp_path) -> None:
    assert len(plans_of("norms: [gn, {name: gn, label: again}]\nseeds: [1, 1]\n", tmp_path)) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("norms: [bn, gnn]\n", "exp.yaml:1: norms.1: unknown norm 'gnn'; did you mean 'gn'?"),
        ("norm: no\n", "exp.yaml:1: norm: unknown norm 'no'"),
        ("norm: gn+sw\n", "exp.yaml:1: norm: unknown weight method 'sw'; did you mean"),
        ("norm: gn\nmodel: resnet19\n", "exp.yaml:2: model: unknown model 'resnet19'; did you mean 'resnet9'?"),
        ("norm: gn\ndataset: cifar\n", "exp.yaml:2: dataset: unknown dataset 'cifar'; did you mean 'cifar10'?"),
        (
            "norm:\n  name: gn\n  options:\n    group: 3\n",
            "exp.yaml:4: norm.options.group: unknown option of norm 'gn'",
        ),
        ("norm: gn\nmodel: {name: norm_resnet, options: {x: 1}}\n", "unknown option of model 'norm_resnet': 'x'"),
        ("norm: gn\ndataset: {name: synthetic, options: {n: 1}}\n", "unknown option of dataset 'synthetic': 'n'"),
        ("norm: gn\nbaseline: bn\n", "exp.yaml:2: baseline: unknown baseline 'bn'. Allowed: GN"),
    ],
)
def test_names_that_do_not_exist(tmp_path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)):
        draft_runs(load(text, tmp_path))


@pytest.mark.parametrize("groups", [5, 0, 128])
def test_groups_that_do_not_divide_fail_before_training_at_their_line(tmp_path, groups: int) -> None:
    loaded = load(f"device: cpu\nnorms:\n- bn\n- {{name: gn, options: {{groups: {groups}}}}}\n", tmp_path)
    with pytest.raises(DraftError) as caught:
        plan(loaded)
    text = str(loaded.error(("norms", caught.value.norm_position), caught.value))
    assert "exp.yaml:4: norms.1: " in text
    assert f"groups={groups}" in text


def test_a_device_precision_or_engine_that_is_not_here_fails_before_training(tmp_path, monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError):
        plan(load("norm: gn\ndevice: cuda\n", tmp_path))
    with pytest.raises(ConfigError, match="tf32"):
        plans_of("norm: gn\ntrain: {precision: tf32}\n", tmp_path)
    with pytest.raises(ConfigError, match="graph"):
        plans_of("norm: gn\ntrain: {engine: graph}\n", tmp_path)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_config_that_comes_along_can_be_planned(file: Path, tmp_path: Path, monkeypatch) -> None:
    loaded = load_config(file, flags={"device": "cpu"})
    plans = plan(loaded)
    compared = [plan for plan in plans if plan.config.probe is None]
    num_points = prod(map(len, loaded.experiment.grid.values()))
    assert len(compared) == len(loaded.experiment.norms) * len(loaded.experiment.seeds) * num_points
    write_experiment(tmp_path, resolved_experiment(loaded.experiment, plans))
    again = load_config(tmp_path / EXPERIMENT_FILE)
    for task in ("classifiers.Classification", "stylizers.StyleTransfer"):  # the same networks need no second trial
        monkeypatch.setattr(f"normbench.worker.{task}.check_model", lambda *_: None)
    assert plan(again) == plans  # experiment.yaml says the same


# --- identity ----------------------------------------------------------------------------------------------------

BASE = {
    "norm": {"name": "gn", "options": {"groups": 4}, "label": "GN"},
    "model": {"name": "norm_resnet"},
    "dataset": {"name": "synthetic"},
    "train": {"precision": "fp32", "engine": "eager"},
    "seed": 0,
    "device": "cpu",
}
OTHER_TRAIN = {
    "epochs": 6, "batch_size": 65, "optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.8, "weight_decay": 0.1,
    "schedule": "cosine", "warmup_fraction": 0.1, "label_smoothing": 0.1, "augment": "crop_flip", "precision": "bf16",
    "engine": "compile", "reproducible": False, "micro_batch": 8, "sync_statistics": True, "lookahead": {},
    "scale_rate": 0.5, "shift_rate": 2.0,
}  # fmt: skip
CHANGES = [
    {"norm": {"name": "bn"}},
    {"norm": {"name": "gn", "options": {"groups": 8}}},
    {"model": {"name": "resnet18"}},
    {"model": {"name": "norm_resnet", "options": {"x": 1}}},
    {"dataset": {"name": "cifar10"}},
    {"dataset": {"name": "synthetic", "options": {"seed": 1}}},
    {"seed": 1},
    {"device": "cuda"},
    *({"train": {**BASE["train"], key: value}} for key, value in OTHER_TRAIN.items()),
]


def test_the_changes_below_cover_every_training_setting() -> None:
    from normbench.config.schema import TrainConfig

    assert set(OTHER_TRAIN) == set(TrainConfig.model_fields)


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_whatever_decides_the_outcome_changes_the_id(change: dict) -> None:
    assert RunConfig.model_validate({**BASE, **change}).run_id != RunConfig.model_validate(BASE).run_id


def test_the_id_of_a_run_from_before_bits_could_be_given_up_stays() -> None:
    """The id that such a run had: a hash of its config, which had no `reproducible`."""
    config = RunConfig.model_validate(BASE)
    content = config.model_dump(mode="json", exclude={"task", "probe"})
    del content["norm"]["label"], content["norm"]["train"], content["train"]["reproducible"]
    del content["train"]["micro_batch"], content["train"]["sync_statistics"], content["train"]["lookahead"]
    del content["train"]["scale_rate"], content["train"]["shift_rate"]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    assert config.run_id == f"gn-norm_resnet-bs64-s0-{digest}"
    assert "reproducible" not in config.timing_fields["train"]
    other = RunConfig.model_validate({**BASE, "train": {**BASE["train"], "reproducible": False}})
    assert other.timing_fields["train"]["reproducible"] is False


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("norm: gn\ntrain: {batch_size: 16, micro_batch: 17}\n", "train.micro_batch: 17 is not allowed: at most the"),
        ("norm: bn\ntrain: {sync_statistics: true}\n", "not allowed without train.micro_batch"),
        ("norm: brn\ntrain: {micro_batch: 8, sync_statistics: true}\n", "brn: train.sync_statistics is for bn"),
        ("norm: gn\nevaluate: {batch_size: [1]}\n", "did you mean 'batch_sizes'?"),
        ("norm: gn\nevaluate: {corruptions: all}\n", "Allowed: none, generated, official"),
    ],
)
def test_parts_and_evaluations_that_cannot_be_are_refused_before_training(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        plans_of(text, tmp_path)


def test_an_evaluation_is_no_part_of_a_run_and_parts_of_a_batch_are(tmp_path: Path) -> None:
    plain, evaluated, in_parts = (
        plans_of(f"norm: gn\n{more}", tmp_path)[0] for more in ("", "evaluate: {}\n", "train: {micro_batch: 8}\n")
    )
    assert plain.run_id == evaluated.run_id != in_parts.run_id
    assert "micro_batch" not in plain.config.timing_fields["train"]
    assert in_parts.config.timing_fields["train"]["micro_batch"] == 8


def test_a_label_does_not_change_the_id() -> None:
    renamed = {**BASE, "norm": {**BASE["norm"], "label": "something else"}}
    assert RunConfig.model_validate(renamed).run_id == RunConfig.model_validate(BASE).run_id


def test_a_setting_of_the_norm_alone_counts_as_the_setting_it_is(tmp_path) -> None:
    own = plans_of("norm: {name: gn, train: {lr: 0.5}}\n", tmp_path)[0]
    everyones = plans_of("norm: gn\ntrain: {learning_rate: 5e-1}\n", tmp_path)[0]
    assert own.run_id == everyones.run_id


def test_the_id_is_the_same_in_every_process() -> None:
    code = f"from normbench.config.schema import RunConfig; print(RunConfig.model_validate({BASE!r}).run_id)"
    for hash_seed in ("0", "1"):
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": hash_seed}
        )
        assert result.stdout.strip() == RunConfig.model_validate(BASE).run_id


def test_ids_are_short_plain_folder_names() -> None:
    config = RunConfig.model_validate(
        {**BASE, "model": {"name": "a_model_whose_name_is_much_longer_than_one_would_like_it"}}
    )
    for run_id in (config.run_id, RunConfig.model_validate(BASE).run_id):
        assert re.fullmatch(r"[a-z0-9._+-]{1,64}", run_id)
    assert RunConfig.model_validate(BASE).run_id.startswith("gn-norm_resnet-bs64-s0-")


@pytest.mark.parametrize(
    "norm", ["gn", "gn+ws", "{name: gn, options: {groups: 8}, label: mine}", "{name: gn, train: {lr: 0.5}}"]
)
def test_a_runs_own_config_plans_the_same_run(tmp_path, norm: str) -> None:
    expected = plans_of(f"norm: {norm}\nseed: 3\ntrain: {{epochs: 2, schedule: cosine}}\n", tmp_path)[0]
    RunFolder(tmp_path / "run").acquire().begin(expected.config)
    loaded = load_config(tmp_path / "run" / CONFIG_FILE, flags={"name": "exp"})
    assert plan(loaded) == [expected]


def test_the_written_config_reads_back_as_it_was(tmp_path) -> None:
    expected = plans_of("norm: gn\ntrain: {lr: 1e-3}\n", tmp_path)[0]
    RunFolder(tmp_path / "run").acquire().begin(expected.config)
    written = yaml.safe_load((tmp_path / "run" / CONFIG_FILE).read_text())
    assert RunConfig.model_validate(written) == expected.config
    assert written["train"]["learning_rate"] == 0.001


def test_errors_that_carry_a_list_of_names_do_so() -> None:
    error = UnknownNameError("norm", "gnn", ("bn", "gn"))
    assert str(error) == "unknown norm 'gnn'; did you mean 'gn'? Allowed: bn, gn"
