"""What a config file means, and what wins over what."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normbench.config.load import load_config, parse_options
from normbench.config.schema import ExperimentConfig
from normbench.errors import ConfigError


def load(tmp_path: Path, text: str, *settings: str, **flags: object) -> ExperimentConfig:
    file = tmp_path / "exp.yaml"
    file.write_text(text)
    return load_config(file, settings=settings, flags=flags).experiment


def test_the_defaults_are_the_tutorials_protocol() -> None:
    train = load_config(None, flags={"norm": "gn"}).experiment.train
    assert (train.epochs, train.batch_size, train.optimizer, train.learning_rate) == (5, 64, "adam", 1e-3)
    assert (train.schedule, train.augment, train.weight_decay, train.label_smoothing) == ("constant", "none", 0, 0)


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", ".001", "1.e-3", "+1e-3"])
def test_scientific_notation_is_a_number(tmp_path, text: str) -> None:
    assert load(tmp_path, f"norm: gn\ntrain: {{lr: {text}}}\n").train.learning_rate == 0.001


@given(st.floats(min_value=1e-30, max_value=1e30))
def test_every_float_that_python_writes_is_read_back(rate: float) -> None:
    assert load_config(None, settings=[f"train.lr={rate!r}", "norm=gn"]).experiment.train.learning_rate == rate


def test_numbers_are_decimal_and_yes_and_no_are_text(tmp_path) -> None:
    config = load(tmp_path, "norm: no\nseed: 010\ntrain: {epochs: 08}\n")
    assert config.norms[0].name == "no"  # the plan then refuses it as a norm that does not exist
    assert config.seeds == (10,)
    assert config.train.epochs == 8
    options = (
        load(tmp_path, "norm: {name: gn, options: {a: off, b: true, c: null, d: 1:30, e: 2026-01-01}}").norms[0].options
    )
    assert options == {"a": "off", "b": True, "c": None, "d": "1:30", "e": "2026-01-01"}


def test_options_keep_their_types(tmp_path) -> None:
    options = load(tmp_path, "norm: {name: gn, options: {groups: 8, eps: 1, affine: true}}").norms[0].options
    assert [type(value) for value in options.values()] == [int, int, bool]


def test_seeds_are_a_number_or_a_list(tmp_path) -> None:
    assert load(tmp_path, "norm: gn\nseeds: 3\n").seeds == (0, 1, 2)
    assert load(tmp_path, "norm: gn\nseeds: [5, 3]\n").seeds == (5, 3)
    assert load(tmp_path, "norm: gn\nseed: 5\n").seeds == (5,)


@pytest.mark.parametrize("in_file", ["lr", "learning_rate"])
@pytest.mark.parametrize("in_set", ["lr", "learning_rate"])
@pytest.mark.parametrize("in_flag", ["lr", "learning_rate"])
def test_a_flag_wins_over_set_over_the_file_over_the_default(tmp_path, in_file, in_set, in_flag) -> None:
    empty, text = "norm: gn\n", f"norm: gn\ntrain: {{{in_file}: 0.1}}\n"
    setting, flag = f"train.{in_set}=0.2", {f"train.{in_flag}": 0.3}
    assert load(tmp_path, empty).train.learning_rate == 1e-3
    assert load(tmp_path, text).train.learning_rate == 0.1
    assert load(tmp_path, text, setting).train.learning_rate == 0.2
    assert load(tmp_path, text, setting, **flag).train.learning_rate == 0.3
    assert load(tmp_path, text, **flag).train.learning_rate == 0.3


def test_a_flag_for_one_norm_replaces_the_files_list(tmp_path) -> None:
    config = load(tmp_path, "norms: [bn, {name: gn, options: {groups: 8}}]\nseeds: 3\n", norm="in", seed=7)
    assert [norm.name for norm in config.norms] == ["in"]
    assert config.seeds == (7,)


def test_settings_reach_into_lists_and_short_forms(tmp_path) -> None:
    config = load(
        tmp_path, "norms: [bn, gn]\ndataset: cifar10\n", "norms.1.options.groups=8", "dataset.options.num_train=100"
    )
    assert config.norms[1].options == {"groups": 8}
    assert config.norms[1].name == "gn"
    assert config.dataset.name == "cifar10"
    assert config.dataset.options == {"num_train": 100}


def test_a_flag_that_names_the_same_keeps_the_options(tmp_path) -> None:
    settings = ("dataset.options.num_train=100", "norm.options.groups=8")
    config = load(tmp_path, "model: norm_resnet\n", *settings, dataset="synthetic", norm="gn")
    assert (config.dataset.name, config.dataset.options) == ("synthetic", {"num_train": 100})
    assert (config.norms[0].name, config.norms[0].options) == ("gn", {"groups": 8})
    other = load(tmp_path, "norm: gn\ndataset: {name: synthetic, options: {num_train: 100}}\n", dataset="cifar10")
    assert other.dataset.options == {}


def test_later_settings_win(tmp_path) -> None:
    assert load(tmp_path, "norm: gn\n", "train.epochs=2", "train.epochs=3").train.epochs == 3


def test_a_norm_may_train_its_own_way(tmp_path) -> None:
    config = load(tmp_path, "norms: [bn, {name: gn, train: {lr: 0.5}}]\ntrain: {epochs: 7, learning_rate: 0.1}\n")
    bn, gn = (config.train_for(norm) for norm in config.norms)
    assert (bn.learning_rate, bn.epochs) == (0.1, 7)
    assert (gn.learning_rate, gn.epochs) == (0.5, 7)


@pytest.mark.parametrize(("file", "name"), [("My Runs (2).yaml", "my_runs_2_"), ("_x.yaml", "x"), ("a.b.yaml", "a.b")])
def test_an_experiment_is_called_like_its_file_unless_it_says_otherwise(tmp_path, file: str, name: str) -> None:
    path = tmp_path / file
    path.write_text("norm: gn\n")
    assert load_config(path).experiment.name == name
    path.write_text("norm: gn\nname: other\n")
    assert load_config(path).experiment.name == "other"
    assert load_config(None, flags={"norm": "gn"}).experiment.name == "train"


def test_options_of_a_flag() -> None:
    assert parse_options("--norm-option", ["groups=8", "eps=1e-3", "affine=false"]) == {
        "groups": 8, "eps": 1e-3, "affine": False,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="--norm-option groups: write it as name=value"):
        parse_options("--norm-option", ["groups"])


def test_a_config_cannot_be_changed_after_it_was_checked() -> None:
    config = load_config(None, flags={"norm": "gn"}).experiment
    with pytest.raises(ValueError, match="frozen"):
        config.train.epochs = 3  # type: ignore[misc]
