"""Norms, networks and images of a user's own: what makes a run of them, and what is refused with file and line."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from local_worker import LocalWorker

import normbench
from normbench.cli.new import Kind
from normbench.config.load import load_config
from normbench.errors import ConfigError, RunError
from normbench.experiment.execute import plan_experiment
from normbench.runs.records import read_run

MYNORM = """
import torch
from torch import nn


class MyNorm(nn.Module):
    def __init__(self, num_channels: int, groups: int = 4, eps: float = 1e-5):
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(num_channels))

    def forward(self, x):
        y = x.unflatten(1, (self.groups, -1))
        y = y / (y.square().mean((2, 3, 4), keepdim=True) + self.eps).sqrt()
        return y.flatten(1, 2) * self.weight[:, None, None]
"""
TINY: dict[str, Any] = {
    "dataset": {"name": "synthetic", "options": {"num_train": 32, "num_test": 20}},
    "train": {"epochs": 1, "batch_size": 16},
    "model": {"name": "./net.py:Net"},
    "device": "cpu",
}
NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self, norm, num_classes=10, width: int = 8):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, width, 3, stride=4), norm.norm_act(width))
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a norm and a network, which is the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mynorm.py").write_text(MYNORM)
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def plans(config: dict[str, Any] | Path, **flags: Any) -> list[Any]:
    return plan_experiment(load_config(config, flags=flags), LocalWorker())  # type: ignore[arg-type]


def run_id(**config: Any) -> str:
    (plan,) = plans({**TINY, "norms": ["./mynorm.py:MyNorm"], **config})
    return str(plan.run_id)


# --- identity ----------------------------------------------------------------------------------------------------


def test_options_come_from_the_signature() -> None:
    norm = {"name": "./mynorm.py:MyNorm", "options": {"groups": 8}}
    (plan,) = plans({**TINY, "norms": [norm]})
    assert plan.config.norm.options == {"groups": 8, "eps": 1e-5}
    assert plan.config.label == "MyNorm (groups=8)"
    assert plan.config.norm.name == "mynorm.py:MyNorm"
    assert plan.run_id.startswith("mynorm-net-bs16-s0-")


def test_changed_code_is_a_new_run_and_a_moved_file_is_not(folder: Path) -> None:
    before = run_id()
    (folder / "sub").mkdir()
    shutil.move("mynorm.py", "sub/mynorm.py")
    assert run_id(norms=["sub/mynorm.py:MyNorm"]) == before
    with open("sub/mynorm.py", "a") as file:
        file.write("# a comment\n")
    assert run_id(norms=["sub/mynorm.py:MyNorm"]) != before


def test_changed_code_of_a_network_is_a_new_run(folder: Path) -> None:
    before = run_id()
    (folder / "net.py").write_text(NET + "\n")
    assert run_id() != before


def test_a_file_is_found_beside_the_config_that_names_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "exp.yaml").write_text(yaml.safe_dump({**TINY, "norms": ["./mynorm.py:MyNorm"]}))
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (plan,) = plans(folder / "exp.yaml")
    assert plan.config.norm.code.source.text == MYNORM
    Path("mynorm.py").write_text(MYNORM + "#")
    with pytest.raises(
        ConfigError, match=r"exp.yaml:\d+: norms.0: ./mynorm.py is here and beside the config, and they"
    ):
        plans(folder / "exp.yaml")
    (plan,) = plans(folder / "exp.yaml", norms=["./mynorm.py:MyNorm"])  # a flag means the current folder
    assert plan.config.norm.code.source.text == MYNORM + "#"


def test_a_name_of_torch_is_a_norm_with_its_options() -> None:
    norms = [{"name": "torch.nn:GroupNorm", "options": {"num_groups": 4}}, "torch.nn:InstanceNorm2d"]
    group_norm, instance_norm = plans({**TINY, "norms": norms})
    assert group_norm.config.norm.options["num_groups"] == 4
    assert instance_norm.config.label == "InstanceNorm2d"


def test_an_installed_package_offers_a_norm_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder / "site" / "others_norms"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "layers.py").write_text(MYNORM)
    info = folder / "site" / "others_norms-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others-norms\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[normbench.norms]\ntheirs = others_norms.layers:MyNorm\n")
    monkeypatch.syspath_prepend(str(folder / "site"))
    (plan,) = plans({**TINY, "norms": [{"name": "theirs", "options": {"groups": 2}}]})
    assert plan.config.norm.name == "theirs"
    assert plan.config.norm.code.source.text == MYNORM
    with pytest.raises(ConfigError, match=r"unknown norm 'their'; did you mean 'theirs'"):
        plans({**TINY, "norms": ["their"]})
    (info / "entry_points.txt").write_text("[normbench.norms]\nbn = others_norms.layers:MyNorm\n")
    plans({**TINY, "norms": ["bn"]})  # is NormBench's own, whatever a package offers
    with pytest.raises(ConfigError, match=r"package 'others-norms' offers a norm 'bn', which is a norm of NormBench's"):
        plans({**TINY, "norms": ["theirs"]})


def test_the_folder_of_a_question_is_called_by_the_norms_own_name(folder: Path) -> None:
    norms = ["bn", "./mynorm.py:MyNorm"]
    loaded = load_config(None, flags={"norms": norms, "model": "./net.py:Net"}, default_name=None)
    assert loaded.experiment.name == "bn_mynorm-net"


# --- what is refused ---------------------------------------------------------------------------------------------

LAYER = (
    "from torch import nn\nclass MyNorm(nn.Module):\n    def __init__(self, num_channels{more}): super().__init__()\n"
)
FORWARD = "    def forward(self, x):\n        return {value}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def MyNorm(c)\n    pass\n", r"bad.py:1: cannot be executed: SyntaxError: expected ':'"),
        ("import not_there\n", r"bad.py:1: cannot be executed: No module named 'not_there'; install it"),
        ("x = 1\nraise KeyError('a')\n", r"bad.py:2: cannot be executed: KeyError: 'a'"),
        ("exit(0)\n", r"bad.py:1: cannot be executed: it calls exit"),
        ("class MyNorn: pass\n", r"bad.py: has no 'MyNorm'; did you mean 'MyNorn'"),
        ("MyNorm = 3\n", r"bad.py: int is neither a class nor a function"),
        ("class MyNorm: pass\n", r"bad.py: MyNorm must take num_channels"),
        (
            LAYER.format(more=", sizes=[1, 2]"),
            r"bad.py:3: MyNorm: the default of 'sizes' is \[1, 2\], which all layers",
        ),
        (LAYER.format(more=", inner: nn.Module"), r"bad.py:3: MyNorm: needs 'inner', which is Module and cannot be"),
        (LAYER.format(more=", groups"), r"MyNorm needs 'groups': give it as options: \{groups: ...\}"),
        ("def MyNorm(num_channels):\n    return 1 / 0\n", r"bad.py:2: MyNorm\(8\) fails: ZeroDivisionError"),
        ("def MyNorm(num_channels):\n    return 'x'\n", r"norm 'bad.py:MyNorm' must return a layer.* returned 'x'"),
        (LAYER.format(more="") + FORWARD.format(value="x.mean((2, 3))"), r"bad.py:4: MyNorm returned \(8, 8\) for an"),
        (LAYER.format(more="") + FORWARD.format(value="(x - x) / 0"), r"bad.py:4: MyNorm returned NaN or infinity"),
        (LAYER.format(more="") + FORWARD.format(value="None"), r"bad.py:4: MyNorm returned NoneType, not a tensor"),
        (
            LAYER.format(more="") + FORWARD.format(value="x.nothing()"),
            r"bad.py:5: .* does not work in .*AttributeError",
        ),
    ],
    ids=lambda value: value[:25],
)
def test_a_norm_that_cannot_be_used_is_named_by_file_and_line(folder: Path, text: str, message: str) -> None:
    (folder / "bad.py").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        plans({**TINY, "norms": ["bn", "./bad.py:MyNorm"]})
    assert caught.value.exit_code == 2
    assert sorted(path.name for path in folder.iterdir()) == ["bad.py", "mynorm.py", "net.py"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"norms": ["./mynorn.py:MyNorm"]}, r"mynorn.py: no such file; did you mean 'mynorm.py'"),
        ({"norms": ["./mynorm.py"]}, r"./mynorm.py: say what to take from the file: ./mynorm.py:MyNorm"),
        ({"norms": ["./mynorm.py:My Norm"]}, r"'My Norm' is not the name of a class or function"),
        ({"norms": ["no.such:Norm"]}, r"no module 'no.such' is installed; for a file write ./no.py"),
        ({"norms": ["./mynorm.py:MyNorm+xs"]}, r"unknown weight method 'xs'. Allowed: ws"),
        (
            {"norms": [{"name": "./mynorm.py:MyNorm", "options": {"group": 2}}]},
            r"norms.0.options.group: unknown option of norm 'mynorm.py:MyNorm': 'group'; did you mean 'groups'",
        ),
        (
            {"norms": [{"name": "./mynorm.py:MyNorm", "options": {"groups": "two"}}]},
            r"mynorm.py:MyNorm: groups='two' is not allowed; it must be an integer",
        ),
        (
            {"norms": ["gn", {"name": "./mynorm.py:MyNorm", "label": "GN"}]},
            r"two norms are called 'GN'|would be called 'GN' as a norm of NormBench is",
        ),
        ({"norms": ["bn"], "model": "./net.py:Ned"}, r"net.py: has no 'Ned'; did you mean 'Net'"),
        ({"norms": ["bn"], "model": {"name": "./net.py:Net", "options": {"wide": 3}}}, r"did you mean 'width'"),
        ({"norms": ["bn"], "model": "./mynorm.py:MyNorm"}, r"mynorm.py:7: MyNorm must take norm"),
        ({"norms": ["bn"], "model": "torch.nn:Nothing"}, r"has no 'Nothing'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_name_or_option_that_does_not_exist_is_named_with_what_does(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plans({**TINY, **config})


def test_a_network_must_return_logits_of_the_data_sets_classes(folder: Path) -> None:
    (folder / "net.py").write_text(NET.replace("num_classes)", "3)"))
    with pytest.raises(ConfigError, match=r"net.py:Net returned \(16, 3\) for 16 images of 10 classes"):
        plans({**TINY, "norms": ["bn"]})


def test_two_files_of_one_name_cannot_be_the_norm_and_the_network(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "net.py").write_text(MYNORM)
    with pytest.raises(ConfigError, match=r"norm and network are in two files that are both called net.py"):
        plans({**TINY, "norms": ["./sub/net.py:MyNorm"]})


def test_what_a_file_prints_does_not_mix_with_results(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "loud.py").write_text("print('hello')\n" + MYNORM)
    plans({**TINY, "norms": ["./loud.py:MyNorm"]})
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello" in captured.err


# --- images ------------------------------------------------------------------------------------------------------


def save_images(path: Path, size: int = 12, num_classes: int = 3, **changes: Any) -> None:
    labels = np.arange(30) % num_classes
    images = np.random.default_rng(0).integers(0, 256, (30, size, size, 3), dtype=np.uint8)
    arrays = {"x_train": images, "y_train": labels, "x_test": images[:9], "y_test": labels[:9]}
    np.savez(path, **{name: value for name, value in {**arrays, **changes}.items() if value is not None})


def test_models_follow_size_and_classes_of_own_images(folder: Path) -> None:
    save_images(folder / "mine.npz")
    for model in ("./net.py:Net", "norm_resnet", "vit"):
        (plan,) = plans({**TINY, "norms": ["ln"], "model": model, "dataset": "./mine.npz"})
        assert plan.config.dataset.images.num_classes == 3
        assert plan.config.dataset.images.image_size == 12
    assert str(folder) not in yaml.safe_dump(plan.config.model_dump(mode="json"))


def test_other_images_are_another_run(folder: Path) -> None:
    save_images(folder / "mine.npz")
    before = run_id(dataset="./mine.npz")
    shutil.copy("mine.npz", "copy.npz")
    shutil.move("copy.npz", "mine.npz")
    assert run_id(dataset="mine.npz") == before
    save_images(folder / "mine.npz", size=16)
    assert run_id(dataset="./mine.npz") != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_test": None}, r"mine.npz: no x_test in it"),
        (
            {"x_train": np.zeros((30, 12, 10, 3), np.uint8)},
            r"x_train is uint8 \(30, 12, 10, 3\), not uint8 \(N, S, S, 3\)",
        ),
        ({"x_train": np.zeros((30, 97, 97, 3), np.uint8)}, r"with S from 8 to 96"),
        ({"x_train": np.zeros((30, 12, 12, 3))}, r"x_train is float64"),
        ({"y_train": np.arange(29) % 3}, r"x_train has 30 images and y_train 29 labels"),
        ({"y_train": np.arange(30) % 3 - 1}, r"y_train holds the label -1"),
        ({"y_test": np.full(9, 7)}, r"y_test holds the label 7, of which x_train has no image"),
        ({"y_train": np.array([{}] * 30)}, r"y_train is object"),
        ({"x_test": np.zeros((9, 16, 16, 3), np.uint8)}, r"images of different sizes"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_images_that_cannot_be_used_are_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    save_images(folder / "mine.npz", **changes)
    with pytest.raises(ConfigError, match=message):
        plans({**TINY, "norms": ["bn"], "dataset": "./mine.npz"})


def test_images_that_are_nowhere_are_looked_for_in_named_places() -> None:
    with pytest.raises(ConfigError, match=r"mine.npz: no such file in .*; --data-dir DIR names another folder"):
        plans({**TINY, "norms": ["bn"], "dataset": "./mine.npz"})


# --- runs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in this process, and draw no report."""
    monkeypatch.setattr("normbench.experiment.worker_process.Worker", LocalWorker)
    monkeypatch.setattr("normbench.experiment.execute.write_report_of", lambda _, **__: [])
    monkeypatch.setattr("normbench.experiment.execute.write_run_report", lambda _: [])
    monkeypatch.setattr("normbench.experiment.timing_pass.TimingPass.run", lambda *_: None)


def compare(config: Any = None, **arguments: Any) -> Any:
    return normbench.compare(config, listener=lambda _: None, **arguments)


def scale(num_channels: int, factor: float = 2.0) -> Any:
    """A norm of this module, as a script would give it."""
    from torch import nn

    return nn.GroupNorm(1, num_channels, eps=factor)


@pytest.mark.usefixtures("in_process")
def test_a_run_keeps_its_code_and_is_done_again_from_its_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compare({**TINY, "norms": ["./mynorm.py:MyNorm"], "name": "a"}, keep_checkpoint=True)
    run = first.folder / first.run_ids[0]
    assert (run / "mynorm.py").read_text() == MYNORM
    assert (run / "net.py").read_text() == NET
    for name in ("mynorm.py", "net.py"):
        (folder / name).unlink()
    for config in (run / "config.yaml", first.folder / "experiment.yaml"):
        again = compare(config, name=f"again-{config.stem}")
        assert again.run_ids == first.run_ids
        record, repeated = read_run(run), read_run(again.folder / again.run_ids[0])
        assert repeated.step_losses.tolist() == record.step_losses.tolist()
    with pytest.raises(
        RunError, match=r"its network is code of its own: read .*mynorm.py and .*net.py, then give trust"
    ):
        normbench.load_model(run)
    network = normbench.load_model(run, trust_code=True)
    assert type(network).__name__ == "Net"
    (run / "mynorm.py").write_text(MYNORM + "#")
    with pytest.raises(RunError, match="has changed since the run"):
        normbench.load_model(run, trust_code=True)
    (again_file,) = [run / "config.yaml"]
    with pytest.raises(ConfigError, match="is not the file that was recorded"):
        compare(again_file, name="c")


@pytest.mark.usefixtures("in_process")
def test_reading_commands_never_execute_recorded_code(
    folder: Path, normbench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare({**TINY, "norms": ["./mynorm.py:MyNorm"], "name": "a"})
    monkeypatch.setattr("normbench.own_code._execute", lambda _: pytest.fail("executed"))
    (run,) = Path("runs/a").glob("mynorm-*")
    for command in (["table", "runs/a"], ["show", str(run)], ["ls"]):
        assert normbench(*command).code == 0, command
    assert "MyNorm" in normbench("table", "runs/a").out


@pytest.mark.usefixtures("in_process")
def test_runs_of_changed_code_are_told_apart_by_the_files_hash(folder: Path) -> None:
    for text in (MYNORM, MYNORM + "# changed\n"):
        (folder / "mynorm.py").write_text(text)
        result = compare({**TINY, "norms": ["bn", "./mynorm.py:MyNorm"], "name": "a"})
    ids = [hashlib.sha256(text.encode()).hexdigest()[:8] for text in (MYNORM, MYNORM + "# changed\n")]
    assert all(f"MyNorm (mynorm.py {digest})" in result.table("csv") for digest in ids)


@pytest.mark.usefixtures("in_process")
def test_classes_and_functions_are_norms_in_python() -> None:
    from torch import nn

    result = compare(
        {
            **TINY,
            "norms": ["bn", scale, {"name": nn.InstanceNorm2d, "options": {"affine": True}, "label": "IN affine"}],
        },
        name="a",
    )
    assert [row["label"] for row in result.rows()] == ["BN", "scale", "IN affine"]
    assert result.is_complete
    file = result.folder / result.run_ids[1] / "test_experiment_own.py"
    assert file.read_text() == Path(__file__).read_text()


def test_an_object_without_a_name_is_refused_in_words() -> None:
    for norm in (lambda channels: scale(channels), type("Made", (), {})):
        with pytest.raises(
            ConfigError, match=r"has no name at the top of a file, script or notebook, so it can neither"
        ):
            normbench.compare(norms=["bn", norm])


# --- templates ---------------------------------------------------------------------------------------------------


def test_the_templates_work(folder: Path, normbench: Callable[..., Any]) -> None:
    assert {kind.value for kind in Kind} == {"norm", "model"}
    assert normbench("new", "norm", "template.py").code == 0
    assert normbench("new", "model", "network.py").code == 0
    (plan,) = plans({**TINY, "norms": ["./template.py:MyNorm"], "model": "./network.py:MyNet"})
    assert plan.config.norm.options == {"groups": 4, "eps": 1e-5}
    assert plan.config.model.options == {"width": 32}
    again = normbench("new", "norm", "template.py")
    assert (again.code, again.err) == (2, "normbench: template.py: is there already; nothing is written over it\n")
    assert normbench("new", "norm", "template.txt").code == 2
    assert normbench("new", "norm", "nowhere/template.py").code == 3
