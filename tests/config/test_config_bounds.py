"""A config that asks for more than a machine has, or a message should show, is refused before anything is made."""

import os
import pickle
import time
from pathlib import Path

import pytest

from normbench.config.bounds import first_problem, memory_bytes
from normbench.config.built_in import find_config
from normbench.config.load import load_config
from normbench.data import DATASETS, load_dataset
from normbench.errors import ConfigError, NormBenchError, UnknownNameError
from normbench.experiment.plan import draft_runs
from normbench.worker.targets import resolve_runs

ALIASES = "x0: &x0 [1, 1, 1]\n" + "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 8))


def refusal(folder: Path, text: str, *settings: str, **arguments: object) -> str:
    """Return why a config is refused, within seconds: two on an idle machine."""
    file = folder / "exp.yaml"
    file.write_text(text, encoding="utf-8")
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        draft_runs(load_config(file, settings=settings, **arguments))
    assert time.process_time() - began < 5
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("norms: [bn]\nint: 3\n", "exp.yaml:2: int: unknown key. Allowed: "),
        ("norms: [bn]\n'a]': 3\n", "exp.yaml:2: a]: unknown key"),
        ("norms: [bn]\ntrain: {none: 3}\n", "exp.yaml:2: train.none: unknown key"),
        ("norms: [{name: gn, options: {int: [1]}}]\n", "norms.0.options.int: [1] is not allowed: an option is"),
        ("norms: [bn]\nseeds: " + "9" * 4301, "exp.yaml:2: a number of 4,301 digits; an integer is at most 9223372036"),
        ("norms: [bn]\nseeds: [9223372036854775808]\n", "exp.yaml:2: seeds.0: the number is too large: an integer is"),
        ("norms: [bn]\nseeds: 1000000000\n", "exp.yaml:2: seeds: 1000000000 is not allowed: at most 1,000,000 seeds"),
        ("norms: [bn]\nseeds: !!int 0x\n", "exp.yaml:2: tags such as tag:yaml.org,2002:int are not allowed"),
        ("!!set {norms}\n", "exp.yaml:1: tags such as "),
        ('norms: ["\\UFFFFFFFF"]\n', "exp.yaml:1: not valid YAML: "),
        ("%YAML " + "1" * 4301 + ".1\n---\nnorms: [bn]\n", "exp.yaml:1: not valid YAML: "),
        ("norms:\n- ? [bn]\n", "exp.yaml:2: a list or section: a key must be text"),
        (ALIASES, "more than 20,000 values, those of aliases counted where they stand"),
        ("norms: [" + "bn, " * 20_000 + "]\n", "exp.yaml:1: more than 20,000 values"),
        ("norms: [bn]\n#" + "x" * 2**20, "exp.yaml: is too long for a config: more than 512 KiB"),
        ("a:\n" + "".join(" " * i + "-\n" for i in range(30)), "exp.yaml:21: nested more than 20 levels deep"),
        ("norms: [bn]\nname: " + "[" * 5000, "exp.yaml:2: nested more than 20 levels deep"),
        ("norms: [{name: bn, label: 'a\tb'}]\n", r"norms.0.label: 'a\tb' is not allowed: text has neither control"),
        ('norms:\n- {name: bn, label: "\\e[31mred"}\n', r"exp.yaml:2: norms.0.label: '\x1b[31mred' is not allowed"),
        ('norms: [{name: bn, label: "a\\nb"}]\n', r"norms.0.label: 'a\nb' is not allowed"),
        ('norms: [{name: bn, label: "\\uD800"}]\n', r"norms.0.label: '\ud800' is not allowed"),
    ],
    ids=lambda value: value[:30],
)
def test_texts_beyond_the_bounds(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("²=1", "--set ²=1: unknown key"),
        ("seeds.⑤=1", "--set seeds.⑤=1: seeds.⑤: there is no such entry"),
        ("seeds=!!int 0x", "is not a YAML value: tags such as "),
        ("a." * 3000 + "b=1", "the path has more than 20 parts"),
        ("norms.0.label=" + "x" * 2**20, "is too long for a config"),
        ("norms.0.label=\x1b[31m", r"--set norms.0.label=\x1b[31m: "),
    ],
    ids=lambda value: value[:20],
)
def test_settings_beyond_the_bounds(tmp_path: Path, setting: str, expected: str) -> None:
    assert expected in refusal(tmp_path, "norms: [{name: bn}]\nseeds: [1, 2]\n", setting)


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("norms: [bn, gn]\nseeds: 100000\n", "exp.yaml:2: seeds: norms (2) x seeds (100,000) x points of the grid"),
        (
            "norms: [bn]\ngrid:\n" + "".join(f"  train.{key}: [{'1, ' * 1000}]\n" for key in ("lr", "epochs", "seed")),
            "exp.yaml:2: grid: norms (1) x seeds (1) x points of the grid (1,000,000,000) = 1,000,000,000 runs; at",
        ),
    ],
)  # fmt: skip
def test_runs_are_counted_before_any_is_made(tmp_path: Path, text: str, counted: str) -> None:
    assert counted in refusal(tmp_path, text)


def test_the_number_of_runs_that_is_allowed_can_be_chosen(tmp_path: Path) -> None:
    text = "norms: [bn, gn]\nseeds: 3\ngrid: {train.lr: [0.1, 0.2]}\n"
    assert "= 12 runs; at most 11 unless --max-runs says more" in refusal(tmp_path, text, max_runs=11)
    assert len(draft_runs(load_config(tmp_path / "exp.yaml", max_runs=12))) == 12


def test_a_grid_of_thousands_of_points_is_drafted_in_seconds(tmp_path: Path) -> None:
    rates = ", ".join(f"{rate}.0e-4" for rate in range(1, 5001))
    (tmp_path / "exp.yaml").write_text(f"norms: [bn]\ngrid: {{train.lr: [{rates}]}}\n")
    began = time.process_time()
    assert len(draft_runs(load_config(tmp_path / "exp.yaml"))) == 5000
    assert time.process_time() - began < 10  # it took minutes when every point looked through all


def test_the_network_is_tried_once_however_many_labels_a_norm_has(tmp_path: Path, monkeypatch) -> None:
    tried = []
    monkeypatch.setattr("normbench.worker.classifiers.Classification.check_model", lambda _, config: tried.append(1))
    norms = [{"name": "gn", "label": f"gn {position}", "train": {"lr": 1e-3}} for position in range(1000)]
    assert len(resolve_runs(draft_runs(load_config({"norms": norms, "device": "cpu"})))) == 1000
    assert len(tried) == 1


STYLE = "task: style_transfer\nnorms: [in]\n"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("norms: [bn]\ntrain: {batch_size: 1000000000}\n", "exp.yaml:2: train.batch_size: a batch of 1000000000 im"),
        ("norms: [bn]\ntrain: {epochs: 1000000000}\n", "exp.yaml:2: train.epochs: a record of 782000000000 steps"),
        ("norms: [{name: bn, train: {epochs: 1000000000}}]\n", "train.epochs: a record of 782000000000 steps"),
        ("norms: [ln]\nmodel: {name: vit, options: {depth: 1000000000}}\n", "model.options: a network of depth 1"),
        ("norms: [bn]\ndataset: {name: synthetic, options: {num_test: 1000000000000}}\n", "dataset.options.num_test: "),
        (STYLE + "image_size: 1000000\n", "exp.yaml:3: image_size: an image of 1000000 x 1000000 pixels"),
        (STYLE + "train: {batch_size: 100000000}\n", "exp.yaml:3: train.batch_size: a batch of 100000000 images"),
        (STYLE + "image_size: 2048\nnum_content: 50000\n", "exp.yaml:4: num_content: 50000 images of 2048 x 2048"),
    ],
    ids=lambda value: value[:50],
)  # fmt: skip
def test_what_cannot_fit_into_the_machine_is_refused(tmp_path: Path, text: str, where: str) -> None:
    message = refusal(tmp_path, text)
    assert where in message
    assert message.endswith(f" GiB of memory; this machine has {memory_bytes() / 2**30:,.0f}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (STYLE + "num_content: 50001\n", "exp.yaml:3: num_content: 50001 images; cifar10 has at most 50,000"),
        (
            STYLE + "content: synthetic\nnum_content: 1000001\n",
            "num_content: 1000001 images; synthetic has at most 1,0",
        ),
        ("norms: [bn]\nbatch_one: {steps: 50001}\n", "exp.yaml:2: batch_one.steps: 50001 steps take as many images; "),
        ("norms: [bn]\nbatch_one: {}\ndataset: {name: synthetic, options: {num_train: 7}}\n", "the data set has 7 (n"),
    ],
    ids=lambda value: value[-40:],
)
def test_no_more_images_are_asked_for_than_a_data_set_has(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(tmp_path, text)


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_has_as_many_images_as_it_says(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"to {DATASETS[name].max_train:,}, not"):
        load_dataset(name, num_train=DATASETS[name].max_train + 1)


def test_options_of_another_kind_are_no_number_of_images(tmp_path: Path) -> None:
    text = "norms: [bn]\nbatch_one: {}\ndataset: {name: synthetic, options: {num_train: x}}\n"
    (tmp_path / "exp.yaml").write_text(text)
    assert draft_runs(load_config(tmp_path / "exp.yaml"))  # refused where the data set is loaded


def test_the_memory_is_that_of_the_machine_or_less() -> None:
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    assert 0 < memory_bytes() <= int(total.split()[1]) * 1024


def test_a_mapping_is_bounded_as_a_file_is() -> None:
    endless: dict = {"norms": ["bn"]}
    endless["model"] = endless
    with pytest.raises(ConfigError, match="nested more than 20 levels deep"):
        load_config(endless)
    with pytest.raises(ConfigError, match="more than 250,000 values"):
        load_config({"norms": ["bn"], "seeds": [0] * 10**7})
    assert first_problem({"norms": ["bn"], "train": {"lr": 1e300}, "seeds": [2**63 - 1], "label": "Größe²"}) is None


@pytest.mark.timeout(20)
def test_only_a_regular_file_of_a_bearable_name_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for file in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(ConfigError, match="cannot be read: it is not a regular file"):
            load_config(file)
    for name in ("x" * 5000, f"{'x' * 5000}.yaml"):
        with pytest.raises(ConfigError, match="File name too long"):
            load_config(Path(name))
        with pytest.raises(ConfigError, match="File name too long"):
            find_config(name)


def test_a_message_is_short_and_shows_control_characters() -> None:
    error = ConfigError("\n".join(f"line {number}: \x1b[31m\x9b\u202e\ud800 {'é' * number}" for number in range(3000)))
    for message in (str(error), str(pickle.loads(pickle.dumps(error)))):
        assert len(message.encode()) <= 2048
        first, *_, left_out, last = message.split("\n")
        assert first == r"line 0: \x1b[31m\x9b\u202e\ud800 "
        assert left_out.endswith(" more problems")
        assert int(left_out.split()[1].replace(",", "")) == 3000 - len(message.split("\n")) + 1
        assert last.startswith("line 2999: ")
        assert "more characters" in last
    for short in ("", "one", "one\ntwo é", "x" * 700):
        assert str(NormBenchError(short)) == short
    assert str(UnknownNameError("norm", "\x1b", ["bn"])) == r"unknown norm '\x1b'. Allowed: bn"
