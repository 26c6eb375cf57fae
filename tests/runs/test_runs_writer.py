"""One writer a folder, across processes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
from run_events import SUMMARY, make_plan, make_row

from normbench.config.load import load_config
from normbench.errors import FolderBusyError, FolderError
from normbench.runs.alive import hold, is_being_written
from normbench.runs.atomic import write_atomically
from normbench.runs.records import CHECKPOINT_FILE, read_run
from normbench.runs.writer import RunFolder, sweep, write_experiment
from normbench.tasks.classification import CLASSIFICATION

PLAN = make_plan()

HOLD = """
import sys
from pathlib import Path
from normbench.runs.writer import RunFolder
folder = RunFolder(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(FolderBusyError, match="another process is writing this run"):
            RunFolder(tmp_path / "run").acquire()
        process.kill()  # without a chance to release
    RunFolder(tmp_path / "run").acquire().release()


def test_the_result_counts_only_when_all_is_written(tmp_path, monkeypatch) -> None:
    folder = RunFolder(tmp_path / "run").acquire()
    folder.begin(PLAN.config)
    folder.checkpoint.write_bytes(b"x")

    def fail(*_: object) -> None:
        raise FolderError("full")

    monkeypatch.setattr(folder, "set_status", fail)
    with pytest.raises(FolderError):
        folder.finish(SUMMARY, keep_checkpoint=False)
    assert (folder.path / CHECKPOINT_FILE).exists()  # the way back, until the status says completed
    monkeypatch.undo()
    folder.finish(SUMMARY, keep_checkpoint=False)
    assert not (folder.path / CHECKPOINT_FILE).exists()
    assert read_run(folder.path).summary == SUMMARY


def test_a_checkpoint_may_be_kept(tmp_path) -> None:
    folder = RunFolder(tmp_path / "run").acquire()
    folder.begin(PLAN.config)
    folder.checkpoint.write_bytes(b"x")
    folder.finish(SUMMARY, keep_checkpoint=True)
    assert folder.checkpoint.exists()


def test_beginning_again_removes_what_the_last_attempt_left(tmp_path) -> None:
    folder = RunFolder(tmp_path / "run").acquire()
    folder.begin(PLAN.config)
    folder.append_steps([(1.0,), (2.0,)])
    folder.append_epoch(make_row(1))
    folder.write_error("Traceback")
    folder.finish(SUMMARY, keep_checkpoint=True)
    (folder.path / ".checkpoint.pt.123.partial").write_bytes(b"half")
    folder.remove_results(CLASSIFICATION)
    folder.begin(PLAN.config, rows=[make_row(1)], losses=[(0.5,)])
    folder.append_steps([(0.25,)])
    assert sorted(path.name for path in folder.path.iterdir()) == [
        ".lock", "config.yaml", "metrics.jsonl", "status.json", "steps.csv",
    ]  # fmt: skip
    assert (folder.path / "steps.csv").read_text() == "step,loss\n0,0.5\n1,0.25\n"
    assert read_run(folder.path).epochs == (make_row(1),)


def test_losses_keep_seven_digits(tmp_path) -> None:
    folder = RunFolder(tmp_path / "run").acquire()
    folder.begin(PLAN.config)
    folder.append_steps([(2.302585092994046,), (1e-12,), (float("inf"),), (float("nan"),)])
    assert (folder.path / "steps.csv").read_text().splitlines()[1:] == ["0,2.302585", "1,1e-12", "2,inf", "3,nan"]
    losses = read_run(folder.path).total_losses
    assert losses[2] == float("inf")
    assert losses[3] != losses[3]


def test_a_path_that_is_a_file_is_told(tmp_path) -> None:
    (tmp_path / "runs").write_text("")
    config = load_config(None, flags={"norm": "gn"}).experiment
    for write in (lambda path: write_experiment(path, config), lambda path: RunFolder(path).acquire()):
        with pytest.raises(FolderError, match=r"cannot be written: (Not a directory|File exists)") as caught:
            write(tmp_path / "runs" / "exp")
        assert caught.value.exit_code == 3
        assert str(Path("runs") / "exp") in str(caught.value)


def test_what_killed_processes_left_half_written_is_swept_and_what_is_being_written_is_not(tmp_path) -> None:
    (tmp_path / "run").mkdir()
    gone = 2**22 + 1  # more than Linux gives
    left = [tmp_path / f".timing.json.{gone}.partial", tmp_path / "run" / f".loss_curve.png.{gone}.partial"]
    others = [tmp_path / "run" / f".loss_curve.png.{os.getppid()}.partial", tmp_path / "run" / "loss_curve.png"]
    for path in (*left, *others):
        path.touch()
    elsewhere = tmp_path / f".experiment.yaml.{gone}.partial"  # of another machine or container, which holds it
    with elsewhere.open("wb") as file:
        hold(file)
        sweep(tmp_path)
        assert [path.exists() for path in (*left, *others, elsewhere)] == [False, False, True, True, True]
    sweep(tmp_path)
    assert not elsewhere.exists()


def test_a_file_is_held_while_it_is_written(tmp_path) -> None:
    seen = []
    pid = 2**22 + 1  # as seen from where the writer's process is not

    def write(file: IO[bytes]) -> None:
        (partial,) = tmp_path.iterdir()
        seen.append(is_being_written(partial, pid))
        file.write(b"x")

    write_atomically(tmp_path / "a", write)
    assert seen == [True]
    assert not is_being_written(tmp_path / "a", pid)
