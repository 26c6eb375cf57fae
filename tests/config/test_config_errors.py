"""What a user is told about a config that is wrong: where, what, and what would be right."""

from pathlib import Path

import pytest

from normbench.config.load import load_config
from normbench.errors import ConfigError


def message(tmp_path: Path, text: str, *settings: str, flags: dict | None = None) -> str:
    file = tmp_path / "exp.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file, settings=settings, flags=flags)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(str(tmp_path) + "/", "")


def test_a_misspelt_key_names_file_line_path_the_nearest_key_and_all_keys(tmp_path) -> None:
    text = message(tmp_path, "norms: [bn]\ntrain:\n  epochs: 3\n  batchsize: 32\n")
    assert text.startswith("exp.yaml:4: train.batchsize: unknown key; did you mean 'batch_size'? Allowed: epochs, ")
    assert "learning_rate" in text


def test_every_problem_is_told_at_once(tmp_path) -> None:
    lines = message(tmp_path, "norms: [bn]\ntran: {}\ntrain: {epochs: 0}\n").splitlines()
    assert len(lines) == 2
    assert any(line.startswith("exp.yaml:2: tran: unknown key; did you mean 'train'?") for line in lines)
    assert any(line == "exp.yaml:3: train.epochs: must be greater than or equal to 1, not 0" for line in lines)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("norm: gn\nlr: 0.1\n", "(learning_rate belongs at train.learning_rate)"),
        ("norm: gn\nepochs: 3\n", "(epochs belongs at train.epochs)"),
        ("norm: gn\ntrain: {seeds: 3}\n", "(seeds belongs at seeds)"),
        ("norm: gn\ntrain: {device: cpu}\n", "(device belongs at device)"),
    ],
)
def test_a_key_in_the_wrong_section_is_told_the_right_one(tmp_path, text: str, hint: str) -> None:
    assert hint in message(tmp_path, text)


def test_a_duplicate_key_names_both_lines(tmp_path) -> None:
    text = message(tmp_path, "norm: gn\ntrain:\n  lr: 0.1\n  epochs: 2\n  lr: 0.2\n")
    assert text == "exp.yaml:5: train.lr: duplicate key (first on line 3)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("norm: gn\ntrain: {batch_size: true}\n", "exp.yaml:2: train.batch_size: must be an integer, not True"),
        ("norm: gn\ntrain: {epochs: 2.5}\n", "exp.yaml:2: train.epochs: must be an integer, not 2.5"),
        ("norm: gn\ntrain: {lr: fast}\n", "exp.yaml:2: train.lr: 'fast' is not a number"),
        ("norm: gn\ntrain: {lr: -1}\n", "exp.yaml:2: train.lr: must be greater than 0, not -1"),
        ("norm: gn\ntrain: {lr: .nan}\n", "exp.yaml:2: train.lr: must be a finite number, not nan"),
        ("norm: gn\ntrain: 3\n", "exp.yaml:2: train: 3 is not allowed: a section of settings belongs here"),
        ("norms: []\n", "exp.yaml:1: norms: [] is not allowed: a list belongs here, such as [bn, gn]"),
        ("norms: [3]\n", "exp.yaml:1: norms.0: 3 is not a name"),
        ("norm: true\n", "exp.yaml:1: norm: True is not a name"),
        ("norm: gn\nseeds: 0\n", "exp.yaml:2: seeds: 0 is not allowed: a number of seeds >= 1"),
        ("norm: gn\nseeds: [0, -1]\n", "exp.yaml:2: seeds.1: -1 is not allowed: a number of seeds >= 1"),
        ("norm: gn\nseeds: true\n", "exp.yaml:2: seeds: True is not allowed"),
        ("norm: gn\nseed: true\n", "exp.yaml:2: seed: True is not allowed"),
        ("norm: {name: gn, options: {groups: [1]}}\n", "norm.options.groups: [1] is not allowed: an option"),
        ("norm: gn\nname: ../x\n", "exp.yaml:2: name: '../x' is not allowed: lower-case letters"),
        ("norm: gn\ntrain: {optimizer: sgdm}\n", "train.optimizer: 'sgdm' is not allowed; did you mean 'sgd'?"),
        ("norm: gn\nnorms: [bn]\n", "norm and norms say the same thing"),
        ("norm: gn\ntrain: {lr: 1, learning_rate: 1}\n", "lr and learning_rate are the same setting"),
        ("train: {}\n", "norms: is required"),
        ("norms: [bn, {label: X}]\n", "exp.yaml:1: norms.1: name is required, for example `name: gn`"),
        ("norms: [bn, {name: gn, train: {epoch: 3}}]\n", "norms.1.train.epoch: unknown key; did you mean 'epochs'?"),
        ("norms:\n- bn\n- name: gn\n  train:\n    lr: -1\n", "exp.yaml:5: norms.1.train.lr: must be greater than 0"),
        ("- bn\n", "exp.yaml:1: must be a mapping"),
        ("", "exp.yaml: is empty"),
        ("norm: [gn\n", "not valid YAML"),
        ("norm: \x01gn\n", "exp.yaml:1: not valid YAML: the character '\\x01' is not allowed"),
        ("norm: &a [*a]\n", "exp.yaml:1: the alias *a refers to what contains it"),
        ("norm: !!python/object:os.system x\n", "exp.yaml:1: tags such as "),
        ("1: 2\nnorm: gn\n", "exp.yaml:1: 1: a key must be text"),
    ],
)  # fmt: skip
def test_wrong_values(tmp_path, text: str, expected: str) -> None:
    assert expected in message(tmp_path, text)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("train.lrr=3", "--set train.lrr=3: unknown key. Allowed: epochs"),
        ("train.lr", "--set train.lr: write it as path=value"),
        ("train.lr=[", "--set train.lr=[: '[' is not a YAML value"),
        ("train.lr=x", "--set train.lr=x: 'x' is not a number"),
        ("norms.2=gn", "--set norms.2=gn: norms.2: there is no such entry; the list has 2"),
        ("norm.options.groups=8", "the config says norms, not norm: write norms.0.options.groups"),
        ("name.first=3", "name is a value, not a section"),
        ("norms=gn", "--set norms=gn: 'gn' is not allowed: a list belongs here"),
    ],
)
def test_settings_of_the_command_line_are_checked_alike(tmp_path, setting: str, expected: str) -> None:
    assert expected in message(tmp_path, "name: x\nnorms: [bn, gn]\n", setting)


def test_flags_are_named_as_they_were_typed(tmp_path) -> None:
    flags = {"train.batch_size": 0, "device": "gpu"}
    lines = message(tmp_path, "norm: gn\ntrain: {batch_size: 8}\n", flags=flags).splitlines()
    assert "--batch-size: must be greater than or equal to 1, not 0" in lines
    assert any(line.startswith("--device: 'gpu' is not allowed; did you mean 'cpu'?") for line in lines)


def test_a_file_that_is_not_there_names_its_neighbours(tmp_path) -> None:
    (tmp_path / "demo.yaml").write_text("norm: gn")
    with pytest.raises(ConfigError, match=r"no such config file in .*did you mean 'demo.yaml'\?"):
        load_config(tmp_path / "dmeo.yaml")


def test_a_folder_and_bytes_are_told_apart_from_configs(tmp_path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"norm: \xff\xfe")
    for path in (tmp_path, tmp_path / "a.yaml"):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(path)
