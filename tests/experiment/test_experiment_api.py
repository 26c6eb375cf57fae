"""`normbench.compare` and `normbench.train` from Python: what they take, train, raise and return."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import LONG, TINY, environment, num_epochs, signal_group, wait_for
from local_worker import LocalWorker
from run_events import whole_run

import normbench
from normbench import compare, train
from normbench.config.load import load_config
from normbench.config.schema import ExperimentConfig
from normbench.config.style import StyleExperimentConfig
from normbench.errors import ConfigError, DataError, DeviceError, DivergedError, NormBenchError, UnknownNameError
from normbench.experiment.runner import RunEnded, RunStarted
from normbench.report.formats import FORMATS
from normbench.runs.records import RunRecord, read_run
from normbench.worker import targets
from normbench.worker.targets import RunRequest

CONFIG: dict[str, Any] = {**yaml.safe_load(TINY), "name": "tiny"}
FEW_IMAGES = {"name": "synthetic", "options": {"num_train": 32, "num_test": 20}}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The ids of runs that were trained, in `tmp_path`, by a worker that only says that it trained them."""
    ids: list[str] = []

    def record(request: RunRequest) -> Iterator[Any]:
        ids.append(request.config.run_id)
        yield from whole_run(request)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("normbench.experiment.worker_process.Worker", LocalWorker)
    monkeypatch.setattr("normbench.experiment.execute.write_report_of", lambda _, **__: [])
    monkeypatch.setattr("normbench.experiment.execute.write_run_report", lambda _: [])
    monkeypatch.setattr(targets, "train_run", record)
    (tmp_path / "tiny.yaml").write_text(TINY)
    return ids


def records(result: normbench.Comparison) -> list[RunRecord]:
    return [read_run(result.folder / run_id) for run_id in result.run_ids]


# --- what they take ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    ["tiny.yaml", Path("tiny.yaml"), CONFIG, ExperimentConfig.model_validate(CONFIG)],
    ids=lambda value: type(value).__name__,
)
def test_a_file_a_mapping_and_a_config_train_the_runs_of_the_command_line(
    normbench: Callable[..., Any], trained: list[str], config: Any
) -> None:
    planned = json.loads(normbench("compare", "tiny.yaml", "--dry-run", "--json").out)["plans"]
    result = compare(config)
    assert list(result.run_ids) == trained == [plan["run"] for plan in planned]
    assert result.folder == Path("runs/tiny")
    assert result.is_complete
    assert result.report_error is None


def test_a_built_in_config_is_found_by_its_name(normbench: Callable[..., Any], trained: list[str]) -> None:
    planned = json.loads(normbench("compare", "tutorial", "--dry-run", "--json", "--device", "cpu").out)["plans"]
    result = compare("tutorial", device="cpu", dataset=FEW_IMAGES)
    assert result.folder == Path("runs/tutorial")
    labels = [(record.config.label, record.config.seed) for record in records(result)]
    assert labels == [(plan["norm"], plan["seed"]) for plan in planned]


def test_a_style_config_is_compared_by_the_same_call(trained: list[str]) -> None:
    config = StyleExperimentConfig.model_validate({"name": "pictures", "norms": ["inn"], "style": "waves"})
    with pytest.raises(ConfigError, match=r"unknown norm 'inn'; did you mean 'in'"):
        compare(config, device="cpu")
    assert trained == []


def test_without_a_config_the_arguments_say_everything(trained: list[str]) -> None:
    norms = ["bn", {"name": "gn", "options": {"groups": 8}}]
    result = compare(norms=norms, dataset=FEW_IMAGES, device="cpu")
    assert result.folder.parent == Path("runs")
    assert re.fullmatch("bn_gn-[0-9a-f]{6}", result.folder.name)  # a hash of the options
    assert [record.config.label for record in records(result)] == ["BN", "GN (groups=8)"]
    with pytest.raises(ConfigError, match="norms: is required"):
        compare()


def test_arguments_are_flags_that_win_over_settings_and_those_over_the_config(trained: list[str]) -> None:
    result = compare(
        "tiny.yaml", settings=["train.lr=0.25", "train.batch_size=4"], name="other", norms=["gn", "in"], seeds=2,
        baseline="gn", model="resnet9", epochs=3, batch_size=8, precision="fp32", engine="eager", device="cpu",
    )  # fmt: skip
    assert result.folder == Path("runs/other")
    configs = [record.config for record in records(result)]
    assert [(config.norm.name, config.seed) for config in configs] == [("gn", 0), ("in", 0), ("gn", 1), ("in", 1)]
    assert {config.model.name for config in configs} == {"resnet9"}
    train = configs[0].train
    assert (train.epochs, train.batch_size, train.learning_rate) == (3, 8, 0.25)
    assert load_config(result.folder / "experiment.yaml").experiment.baseline == "gn"
    assert compare(CONFIG, lr=0.5, runs_dir="elsewhere").folder == Path("elsewhere/tiny")
    assert records(compare(CONFIG, lr=0.5, runs_dir=Path("elsewhere")))[0].config.train.learning_rate == 0.5


def test_an_argument_that_is_none_is_as_if_not_given(trained: list[str]) -> None:
    assert compare(CONFIG, seeds=None, lr=None, name=None).run_ids == compare(CONFIG).run_ids


def test_one_norm_is_trained_by_the_tutorials_protocol(trained: list[str]) -> None:
    result = train("gn", norm_options={"groups": 8}, seed=3, epochs=2, dataset=FEW_IMAGES, device="cpu")
    assert result.folder == Path("runs/train")
    (record,) = records(result)
    assert (record.config.label, record.config.norm.options["groups"], record.config.seed) == ("GN (groups=8)", 8, 3)
    assert (record.config.train.epochs, record.config.train.batch_size) == (2, 64)
    again = train(config=record.folder / "config.yaml", name="train")
    assert again.run_ids == result.run_ids
    assert trained == list(result.run_ids)


# --- what they train ---------------------------------------------------------------------------------------------


def test_a_second_call_trains_nothing_and_another_norm_alone(trained: list[str]) -> None:
    first = compare(CONFIG)
    assert len(trained) == 2
    again = compare(CONFIG)
    assert len(trained) == 2
    assert (again.run_ids, again.is_complete) == (first.run_ids, True)
    more = compare(CONFIG, norms=["bn", "gn", "in"])
    assert trained[2:] == [more.run_ids[2]]
    compare(CONFIG, force=True)
    assert trained[3:] == list(first.run_ids)


def test_what_failed_is_a_row_and_trained_again_when_asked(trained: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(targets, "train_run", broken)
        result = compare(CONFIG)
    assert not result.is_complete
    assert [row["state"] for row in result.rows()] == ["failed", "failed"]
    assert not compare(CONFIG).is_complete
    assert trained == []
    assert compare(CONFIG, retry=True).is_complete
    assert len(trained) == 2


def broken(_: RunRequest) -> Iterator[Any]:
    raise RuntimeError("a bug")
    yield


def test_a_listener_is_told_everything_in_place_of_the_display(
    trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []
    result = compare(CONFIG, listener=seen.append)
    assert [event.plan.run_id for event in seen if isinstance(event, RunEnded)] == list(result.run_ids)
    assert sum(isinstance(event, RunStarted) for event in seen) == 2
    assert capsys.readouterr() == ("", "")
    compare(CONFIG)
    assert "BN seed 0: completed before, kept" in capsys.readouterr().err


def test_a_listener_that_raises_ends_the_call_and_leaves_the_run_interrupted(trained: list[str]) -> None:
    def listen(event: Any) -> None:
        if not isinstance(event, RunStarted):
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        compare(CONFIG, listener=listen)
    (status,) = Path("runs/tiny").glob("*/status.json")
    assert json.loads(status.read_text())["state"] == "interrupted"
    assert compare(CONFIG).is_complete


def test_ctrl_c_is_a_keyboard_interrupt_after_the_report(trained: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process; a test of a script of its own is slow."""
    drawn: list[Any] = []
    monkeypatch.setattr("normbench.experiment.execute.write_report_of", lambda folder, **_: drawn.append(folder))

    def interrupt(event: Any) -> None:
        if isinstance(event, RunStarted):
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            compare(CONFIG, listener=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    (status,) = Path("runs/tiny").glob("*/status.json")
    assert json.loads(status.read_text())["state"] == "interrupted"
    assert len(drawn) == 1


def test_a_comparison_may_run_in_a_thread(trained: list[str]) -> None:
    """Where no signal can be held."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(compare(CONFIG)))
    thread.start()
    thread.join()
    assert found[0].is_complete


# --- what they raise ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    ["norms=[bn, gnn]", "train.epochs=0", "train.lrr=1", "norms=[{name: gn, options: {groups: 5}}]", "baseline=in"],
)
def test_a_mistake_is_told_in_the_command_lines_words(
    normbench: Callable[..., Any], trained: list[str], setting: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        compare("tiny.yaml", settings=[setting])
    told = normbench("compare", "tiny.yaml", "--set", setting)
    assert (told.code, told.err) == (caught.value.exit_code, f"normbench: {caught.value}\n")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare("tiny.yaml", epoch=3), "unknown argument of compare: 'epoch'; did you mean 'epochs'?"),
        (lambda: compare("tiny.yaml", run_dir="x"), "unknown argument of compare: 'run_dir'; did you mean 'runs_dir'?"),
        (lambda: train("gn", norms=["bn"]), "unknown argument of train: 'norms'; did you mean 'norm'?"),
        (lambda: train("gn", seed=1, seeds=3), "seed is one seed, seeds a number or a list of seeds: give one of them"),
        (lambda: compare("tiny.yaml", "tutorial"), "compare takes one config"),
        (lambda: train("gn", "bn"), "train takes one norm; normbench.compare takes several"),
        (lambda: train(), "train: give norm (see `normbench list norms`) or config"),
        (lambda: train(config=CONFIG, norm_options={"groups": 2}), "norm_options needs norm"),
        (lambda: train("gnn"), "unknown norm 'gnn'; did you mean 'gn'?"),
        (lambda: compare("tutoriel"), "no built-in config of that name; did you mean 'tutorial'?"),
        (lambda: compare(3), "3 is no config: give a file, a name, a mapping or an ExperimentConfig"),
        (lambda: compare(Path("missing.yaml")), "missing.yaml: no such config file"),
        (lambda: compare({"norms": ["bn"], "trian": {}}), "trian: unknown key; did you mean 'train'?"),
        (lambda: compare(CONFIG, epochs=0), "epochs: must be greater than or equal to 1, not 0"),
    ],
)
def test_a_wrong_call_is_told_what_would_be_right(trained: list[str], call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        call()
    assert message in str(caught.value)
    assert not Path("runs").exists()


def test_unknown_names_carry_what_is_allowed(trained: list[str]) -> None:
    with pytest.raises(UnknownNameError) as caught:
        compare("tiny.yaml", epoch=3)
    assert caught.value.name == "epoch"
    assert {"epochs", "norms", "runs_dir", "listener"} <= set(caught.value.allowed)


def test_a_device_that_is_not_here_is_told(trained: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="device 'cuda' is not available here"):
        compare(CONFIG, device="cuda")


def test_failures_end_a_comparison_where_they_are_to(trained: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(request: RunRequest) -> Iterator[Any]:
        yield next(whole_run(request))
        raise DivergedError("loss is nan")

    monkeypatch.setattr(targets, "train_run", diverge)
    for limit, count in (({"fail_fast": True}, 1), ({"max_failures": 2}, 2)):
        assert not compare(CONFIG, name=f"after{count}", norms=["bn", "gn", "in"], **limit).is_complete
        assert len(list(Path(f"runs/after{count}").glob("*/status.json"))) == count


def test_so_many_runs_are_refused_before_any_is_planned(trained: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"norms \(2\) x seeds \(2\) .* = 4 runs; at most 3 unless"):
        compare(CONFIG, norms=["bn", "gn"], seeds=2, max_runs=3)
    with pytest.raises(ConfigError, match="= 2 runs; at most 1 unless"):
        train("gn", seeds=2, max_runs=1)
    assert compare(CONFIG, norms=["bn", "gn"], seeds=2, max_runs=4).is_complete


# --- what they return --------------------------------------------------------------------------------------------


def test_a_comparison_is_tables_rows_figures_and_html(trained: list[str]) -> None:
    result = compare(CONFIG, norms=["bn", {"name": "gn", "label": "<b>"}], seeds=2)
    assert result.table() == str(result) == result.table("text")
    assert "<b>" in result.table()
    for name in FORMATS:
        assert result.table(name)
    assert json.loads(result.table("json"))["tables"][0]["rows"]
    assert result.table(baseline="<b>") != result.table()
    with pytest.raises(UnknownNameError, match="unknown format 'markdown'"):
        result.table("markdown")
    with pytest.raises(UnknownNameError, match="'ln'"):
        result.table(baseline="ln")

    rows = result.rows()
    assert [(row["label"], row["seed"], row["state"]) for row in rows] == [
        ("BN", 0, "completed"), ("BN", 1, "completed"), ("<b>", 0, "completed"), ("<b>", 1, "completed"),
    ]  # fmt: skip
    assert {row["test_accuracy"] for row in rows} == {0.5}
    assert rows == normbench.load_runs("runs/tiny")

    html = result._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b><b></b>" not in html
    assert "<td" in html

    figures = result.figures()
    assert "loss_curves" in figures
    assert all(figure.get_axes() for figure in figures.values())


def test_a_comparison_reads_its_folder_when_it_is_asked(trained: list[str]) -> None:
    result = compare(CONFIG)
    assert normbench.Comparison(result.folder, result.run_ids, True).table() == result.table()


# --- in a script of its own --------------------------------------------------------------------------------------


def script(folder: Path, code: str) -> subprocess.Popen[str]:
    """Start a script as a user does, as the leader of its own process group."""
    (folder / "script.py").write_text(code)
    return subprocess.Popen(
        [sys.executable, "script.py"], cwd=folder, env=environment(PYTHONPATH=str(Path(normbench.__file__).parents[1])),
        text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def test_a_script_needs_no_guard_catches_the_packages_errors_and_finds_the_report(tmp_path: Path) -> None:
    code = f"""
print("once")
import sys
import normbench
from normbench.errors import DataError
try:
    normbench.train("gn", device="cpu", data_dir="missing")
except DataError as error:
    print("missing" in str(error), error.exit_code)
result = normbench.compare({CONFIG!r}, norms=["gn"])
assert "torch" not in sys.modules
assert result.report_path.is_file()
print(len(result.rows()), result.is_complete)
"""
    with script(tmp_path, code) as process:
        out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert out.splitlines() == ["once", "True 3", "1 True"]
    assert "GN seed 0: test accuracy" in err
    assert (tmp_path / "runs/tiny/report/report.html").is_file()


@pytest.mark.slow
def test_ctrl_c_in_a_script_saves_a_checkpoint_and_is_a_keyboard_interrupt(tmp_path: Path) -> None:
    code = f"""
import normbench
try:
    normbench.compare({yaml.safe_load(LONG)!r}, name="long")
except KeyboardInterrupt:
    print("interrupted")
"""
    with script(tmp_path, code) as process:
        wait_for(lambda: num_epochs(tmp_path) >= 1)
        signal_group(process, signal.SIGINT)
        out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (0, "interrupted\n"), err
    assert "Traceback" not in err
    assert "stopping: running runs end their step" in err
    (bn,) = tmp_path.glob("runs/long/bn-*")
    assert read_run(bn).status.state == "interrupted"
    assert (bn / "checkpoint.pt").is_file()
    assert (tmp_path / "runs/long/report/report.html").is_file()


def test_errors_that_a_caller_may_catch_are_one_family() -> None:
    assert issubclass(DataError, NormBenchError)
    assert issubclass(ConfigError, ValueError)
