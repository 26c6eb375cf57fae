"""Reading what a run left, also where the process that wrote it was killed."""

import os
from pathlib import Path

import pytest

from normbench.config.schema import RunConfig
from normbench.errors import RunError
from normbench.runs.atomic import write_text_atomically
from normbench.runs.records import read_experiment, read_run
from normbench.runs.writer import RunFolder
from normbench.tasks.task import EpochRow

ROW = EpochRow(
    epoch=1, num_steps=2, train_loss=2.0, train_accuracy=0.25, test_loss=2.0, test_accuracy=0.25, train_seconds=1.0,
    test_seconds=0.5, learning_rate=1e-3,
)  # fmt: skip


def make_run(folder: Path, norm: str = "bn", seed: int = 0) -> RunFolder:
    config = RunConfig.model_validate(
        {"norm": {"name": norm, "label": norm}, "model": "norm_resnet", "dataset": "synthetic", "train": {},
         "seed": seed, "device": "cpu"}
    )  # fmt: skip
    run = RunFolder(folder).acquire()
    run.begin(config)
    run.append_steps([(2.5,), (2.25,)])
    run.append_epoch(ROW)
    run.release()
    return run


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_last_line_that_was_cut_off_is_left_out(tmp_path, cut: int) -> None:
    make_run(tmp_path / "run")
    for name, line in (("metrics.jsonl", ROW.model_dump_json() + "\n"), ("steps.csv", "2,2.125\n")):
        with (tmp_path / "run" / name).open("a") as file:
            file.write(line[: min(cut, len(line) - 1)])
    record = read_run(tmp_path / "run")
    assert record.epochs == (ROW,)
    assert record.total_losses.tolist() == [2.5, 2.25]


def test_a_row_of_a_later_version_with_more_columns_is_read(tmp_path) -> None:
    make_run(tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text(path.read_text().replace('{"epoch"', '{"gradient_norm":1.5,"epoch"'))
    assert read_run(tmp_path / "run").epochs == (ROW,)


@pytest.mark.parametrize("name", ["config.yaml", "status.json", "metrics.jsonl"])
def test_a_damaged_file_is_told_with_its_folder(tmp_path, name: str) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "run" / name).write_text("{]\n")
    with pytest.raises(RunError, match=r"run: not a readable run folder"):
        read_run(tmp_path / "run")


def test_runs_come_in_the_order_of_the_experiment_and_then_of_seeds(tmp_path) -> None:
    for norm, seed in (("bn", 1), ("gn", 0), ("bn", 0)):
        make_run(tmp_path / f"{norm}-{seed}", norm, seed)
    (tmp_path / "experiment.yaml").write_text("norms: [{name: gn}, {name: bn}]")
    assert [run.run_id for run in read_experiment(tmp_path).runs] == ["gn-0", "bn-0", "bn-1"]


def test_an_empty_folder_is_told(tmp_path) -> None:
    with pytest.raises(RunError, match="no runs there"):
        read_experiment(tmp_path)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch) -> None:
    path = tmp_path / "status.json"
    write_text_atomically(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text_atomically(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["status.json"]
