"""Record files are untrusted: what they may be, hold and say, and what becomes of a run with a bad one."""

import json
import math
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_events import SUMMARY, make_plan, make_row

from normbench.errors import RunError
from normbench.runs.atomic import write_text_atomically
from normbench.runs.records import read_experiment, read_run, read_samples
from normbench.runs.timing_file import TimedNorm, Timing, TimingSession, read_timing
from normbench.runs.untrusted import read_bytes, read_json, read_pictures, read_yaml
from normbench.runs.writer import RunFolder, is_due, planned_state

PLAN = make_plan()


def completed(folder: Path) -> Path:
    """Record a completed run of one epoch."""
    run = RunFolder(folder).acquire()
    run.begin(PLAN.config, rows=[make_row(1)], losses=[(2.5,), (2.25,)])
    run.write_environment({"torch": "none"})
    run.finish(SUMMARY, keep_checkpoint=False)
    run.release()
    return folder


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: os.mkfifo(path), "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.mkdir(), "not a regular file"),
        (lambda path: path.symlink_to(path.name), "symbolic link"),
        (lambda path: path.write_bytes(b"x" * 101), "larger than the 100 bytes"),
        (lambda _: None, "No such file"),
    ],
    ids=["pipe", "device", "folder", "loop", "large", "missing"],
)
def test_only_a_small_regular_file_is_read(tmp_path, make: Callable[[Path], Any], problem: str) -> None:
    path = tmp_path / "status.json"
    make(path)
    with pytest.raises(RunError, match=rf"status\.json: cannot be read: .*{problem}"):
        read_bytes(path, 100)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (BOMB, "more than 200,000 values"), ("a: &a [*a]", "more than 200,000 values"),
        ("[" * 100_000, ""), ("[" * 30, "levels deep"), ("- " * 30 + "1", "levels deep"),
        ("!!int 0x", ""), ("!!set {a}", ""), ("!!timestamp x", ""), ("9" * 5000, ""), ("2020-99-99", ""),
        ("!!python/object/apply:os.getpid []", "line 1"), ("a: [", "line [12]"), ("\x00", ""),
    ],
)  # fmt: skip
def test_yaml_that_is_none_or_too_much_is_told(tmp_path, text: str, problem: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(RunError, match=rf"config\.yaml: cannot be read: .*{problem}") as caught:
        read_yaml(path)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[" * 500 + "]" * 500, "9" * 5000, "1" + "0" * 30, "{", "\xff", "[NaN]", '{"a": 1e999}']
)
def test_json_that_is_none_or_too_much_is_told(tmp_path, text: str) -> None:
    path = tmp_path / "status.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(RunError, match=r"status\.json: cannot be read: "):
        read_json(path)


def test_control_characters_are_read_as_their_escapes_and_line_breaks_as_spaces(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text('{label: "a\\e[31m\\nb", "\\u202e": "ä€"}')
    assert read_yaml(tmp_path / "a.yaml") == {"label": r"a\x1b[31m b", r"\u202e": "ä€"}
    (tmp_path / "a.json").write_text('{"label": "a\\u001b[31m\\nb", "\\ud800": "ä€"}')
    assert read_json(tmp_path / "a.json") == {"label": r"a\x1b[31m b", r"\ud800": "ä€"}


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000000,), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-2,), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (300,), }",  # there are 200
        "{'''",
        "(" * 300,
    ],
)
def test_a_picture_is_read_only_if_its_header_says_what_is_there(tmp_path, header: str) -> None:
    with zipfile.ZipFile(tmp_path / "samples.npz", "w") as archive:
        text = header.encode() + b"\n"
        archive.writestr("content.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(200))
    with pytest.raises(RunError, match=r"samples\.npz: cannot be read"):
        read_pictures(tmp_path / "samples.npz")
    assert read_samples(tmp_path) == {}


def test_pictures_come_back_as_they_were_written(tmp_path) -> None:
    pictures = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    RunFolder(tmp_path).write_samples({"content": pictures, "stylized": pictures[::-1], "style": pictures[0]})
    found = read_samples(tmp_path)
    assert found["stylized"].tolist() == pictures[::-1].tolist()
    assert found["style"].shape == (4, 4, 3)
    RunFolder(tmp_path).write_samples({"content": pictures, "stylized": pictures[:1], "style": pictures[0]})
    assert read_samples(tmp_path) == {}


# --- values --------------------------------------------------------------------------------------------------------


def test_losses_that_are_not_finite_read_back(tmp_path) -> None:
    row = make_row(1).model_copy(update={"train_loss": math.inf, "test_loss": math.nan})
    run = RunFolder(tmp_path / "run").acquire()
    run.begin(PLAN.config, rows=[row], losses=[(math.nan,)])
    run.finish(SUMMARY.model_copy(update={"test_loss": math.nan}), keep_checkpoint=False)
    record = read_run(run.path)
    assert record.epochs[0].train_loss == math.inf
    assert math.isnan(record.epochs[0].test_loss)
    assert math.isnan(record.summary.test_loss)
    assert '"test_loss":"NaN"' in (run.path / "metrics.jsonl").read_text()


def test_a_loss_that_was_once_written_as_null_is_nan(tmp_path) -> None:
    folder = completed(tmp_path / "run")
    change(folder / "summary.json", test_loss=None)
    (row,) = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text(json.dumps({**json.loads(row), "test_loss": None}) + "\n")
    record = read_run(folder)
    assert math.isnan(record.summary.test_loss)
    assert math.isnan(record.epochs[0].test_loss)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("summary.json", {"test_accuracy": -5}), ("summary.json", {"test_accuracy": 1.01}),
        ("summary.json", {"test_accuracy": None}), ("summary.json", {"test_accuracy": float("nan")}),
        ("summary.json", {"test_loss": 1e308}), ("summary.json", {"num_steps": -1}),
        ("summary.json", {"train_seconds": float("inf")}), ("summary.json", {"num_parameters": 10**30}),
        ("status.json", {"state": "done"}), ("status.json", {"started_at": "x"}), ("status.json", {"pid": 10**400}),
        ("status.json", {"started_at": "0001-01-01T00:00:00"}), ("environment.json", {"norm_path": True}),
        ("environment.json", {"seconds": float("nan")}),
    ],
)  # fmt: skip
def test_a_value_out_of_its_range_is_told_with_file_and_field(tmp_path, name: str, values: dict[str, Any]) -> None:
    folder = completed(tmp_path / "run")
    change(folder / name, **values)
    with pytest.raises(RunError, match=rf"run: not a readable run folder: .*{name}: cannot be read") as caught:
        read_run(folder)
    assert "pydantic" not in str(caught.value)
    assert planned_state(folder) == "unreadable" or name == "environment.json"


@pytest.mark.parametrize("text", ["[]", '""', "null", "[" * 2000 + "]" * 2000])
def test_an_environment_is_a_mapping(tmp_path, text: str) -> None:
    folder = completed(tmp_path / "run")
    (folder / "environment.json").write_text(text)
    with pytest.raises(RunError, match=r"environment\.json"):
        read_run(folder)


@pytest.mark.parametrize(
    "lines", ["0,2\n1,abc\n", "0,2,3\n", "0\n", "0,2\n2,2\n", "1,2\n", "0,1e300\n", "0,2\n\x00\n", "0,2\n1,\n"]
)
def test_steps_are_counted_numbers(tmp_path, lines: str) -> None:
    folder = completed(tmp_path / "run")
    (folder / "steps.csv").write_text("step,loss\n" + lines)
    with pytest.raises(RunError, match=r"steps\.csv"):
        read_run(folder)


def test_epochs_are_counted(tmp_path) -> None:
    folder = completed(tmp_path / "run")
    rows = [make_row(1), make_row(3)]
    (folder / "metrics.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))
    with pytest.raises(RunError, match=r"epochs are not 1, 2, 3"):
        read_run(folder)


def timing_of(*rounds: tuple[float, ...]) -> dict[str, Any]:
    timed = [
        {"label": "x", "config": {"norm": name}, "seconds_per_step": times, "steps_per_block": 1, "steps_per_epoch": 3}
        for name, times in zip("ab", rounds, strict=False)
    ]
    return {"sessions": [{"environment": {}, "measured_at": "2026", "timed": timed}]}


@pytest.mark.parametrize("rounds", [((1.0, 2.0), (1.0,)), ((1.0,), (0.0,)), ((math.nan,),), ((),), ((-1.0,),)])
def test_times_are_positive_and_as_many_for_each_norm(tmp_path, rounds: tuple[tuple[float, ...], ...]) -> None:
    (tmp_path / "timing.json").write_text(json.dumps(timing_of((1.0, 2.0), (2.0, 1.0))))
    assert len(read_timing(tmp_path).sessions[0].timed) == 2
    (tmp_path / "timing.json").write_text(json.dumps(timing_of(*rounds)))
    with pytest.raises(RunError, match=r"timing\.json: cannot be read"):
        read_timing(tmp_path)


def test_times_come_back_as_they_were_written(tmp_path) -> None:
    norm = TimedNorm(label="bn", config={}, seconds_per_step=(0.5,), steps_per_block=1, steps_per_epoch=2.5)
    timing = Timing(sessions=(TimingSession(environment={}, measured_at="2026-11-28", timed=(norm,)),))
    (tmp_path / "timing.json").write_text(timing.model_dump_json())
    assert read_timing(tmp_path) == timing


@pytest.mark.parametrize(
    "text", ["norms: [true]", "norms: xx", "norms: [{label: [1]}]", "norms: [{label: x}]", "[]", "grid: {a: 3}", "a: ["]
)
def test_settings_that_cannot_be_read_are_named_and_the_runs_are_shown(tmp_path, text: str) -> None:
    completed(tmp_path / "run")
    (tmp_path / "experiment.yaml").write_text(text)
    experiment = read_experiment(tmp_path)
    assert [run.run_id for run in experiment.runs] == ["run"]
    assert experiment.settings == {}
    (named,) = experiment.unreadable
    assert "experiment.yaml: cannot be read" in named


# --- what becomes of the run ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "steps.csv", "metrics.jsonl", "environment.json"])
def test_a_completed_run_with_a_file_that_cannot_be_read_is_neither_new_nor_due(tmp_path, name: str) -> None:
    folder = completed(tmp_path / "run")
    with (folder / name).open("a") as file:
        file.write("{1,abc\n")
    assert planned_state(folder) == "unreadable"
    assert not is_due("unreadable")
    assert is_due("unreadable", retry=True)
    assert is_due("unreadable", force=True)


def test_a_completed_run_without_its_result_is_not_new_either(tmp_path) -> None:
    folder = completed(tmp_path / "run")
    (folder / "summary.json").unlink()
    with pytest.raises(RunError, match=r"summary\.json: cannot be read: missing, though the run is completed"):
        read_run(folder)
    assert planned_state(folder) == "unreadable"


def test_what_an_interrupted_run_left_torn_does_not_keep_it_from_going_on(tmp_path) -> None:
    run = RunFolder(tmp_path / "run").acquire()
    run.begin(PLAN.config)
    run.set_status("interrupted")
    (run.path / "steps.csv").write_text("step,loss\nabc\n")
    assert planned_state(run.path) == "new"
    run.checkpoint.touch()
    assert planned_state(run.path) == "resume"


BEGIN = """
import sys
from pathlib import Path
from run_events import make_plan
from normbench.runs.writer import RunFolder
run = RunFolder(Path(sys.argv[1])).acquire()
run.begin(make_plan().config)
print("begun", flush=True)
sys.stdin.read()
"""


def test_a_run_whose_process_was_killed_is_interrupted(tmp_path) -> None:
    path = [str(Path(__file__).parents[1]), *sys.path]
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        assert read_run(tmp_path / "run").status.state == "running"
        process.kill()
    status = read_run(tmp_path / "run").status
    assert (status.state, status.reason) == ("interrupted", "its process ended before the run")
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "running"  # reading changes nothing


def test_a_run_whose_lock_is_held_is_running_wherever_its_process_is(tmp_path) -> None:
    run = RunFolder(tmp_path / "run").acquire()
    run.begin(PLAN.config)
    change(run.path / "status.json", pid=2**22 + 1)  # more than Linux gives: a process of another machine
    assert read_run(run.path).status.state == "running"
    run.release()
    assert read_run(run.path).status.state == "interrupted"


def test_what_killed_processes_left_of_a_file_goes_when_it_is_written(tmp_path) -> None:
    for name in (".table.md.4194305.partial", ".table.md.x.partial", f".table.md.{os.getppid()}.partial", ".b.1"):
        (tmp_path / name).touch()
    write_text_atomically(tmp_path / "table.md", "new")
    left = {".b.1", f".table.md.{os.getppid()}.partial", "table.md"}  # that process may be writing
    assert {path.name for path in tmp_path.iterdir()} == left
