"""Reading what a run left, also where the process that wrote it was killed."""

import os
from pathlib import Path

import pytest

from normbench.config.schema import RunConfig
from normbench.config.style import StyleRunConfig
from normbench.errors import RunError
from normbench.runs.atomic import write_text_atomically
from normbench.runs.records import read_experiment, read_run
from normbench.runs.writer import RunFolder, planned_state
from normbench.tasks.style_transfer import STYLE_TRANSFER
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


OLD_STYLE_RUN = {
    "config.yaml": """\
style: waves
content: synthetic
num_content: 6
image_size: 16
style_size: 32
features: features
vgg16_weights: null
train:
  steps: 3
  batch_size: 2
  learning_rate: 0.001
  content_weight: 1.0
  style_weight: 1.0
  total_variation_weight: 0.3
  precision: auto
  engine: auto
norm:
  name: in
  options:
    eps: 1.0e-05
    affine: false
  label: IN
  train: {}
seed: 0
device: cpu
""",
    "losses.csv": """\
step,total,content,style,total_variation
0,1.700461,1.340054,0.2605624,0.3328157
1,12.36007,4.109908,8.206739,0.1447609
2,1.760748,1.327361,0.3427479,0.3021288
""",
    "status.json": """\
{
  "state": "completed",
  "reason": null,
  "started_at": "2026-11-28T14:46:09+00:00",
  "ended_at": "2026-11-28T14:46:12+00:00",
  "pid": 17582
}
""",
    "summary.json": """\
{
  "num_steps": 3,
  "num_parameters": 1676035,
  "content_loss": 1.3273611068725586,
  "style_loss": 0.34274786710739136,
  "total_variation": 0.30212879180908203,
  "total_loss": 1.7607476711273193,
  "train_seconds": 0.4967866709998816,
  "startup_seconds": 0.22534084300014,
  "images_per_second": 12.07761872500285,
  "peak_memory_mib": 88.7109375,
  "contrast_change": {
    "0.8": 0.08784867078065872,
    "0.6": 0.21617639064788818,
    "0.4": 0.4131662845611572,
    "0.2": 0.7152869701385498
  }
}
""",
    "environment.json": '{"normbench": "0.1.0", "torch": "2.14.1+cu130", "device": "cpu", "features": "features"}\n',
}
"""What a run of style transfer left before configs said `task:` and all tasks shared `steps.csv`."""


def old_style_run(folder: Path) -> Path:
    folder.mkdir()
    for name, text in OLD_STYLE_RUN.items():
        (folder / name).write_text(text)
    return folder


def test_an_old_run_of_style_transfer_is_read_as_one(tmp_path) -> None:
    record = read_run(old_style_run(tmp_path / "in-stylenet-s0-2133284d"))
    assert isinstance(record.config, StyleRunConfig)
    assert (record.task.name, record.config.style, record.config.label) == ("style_transfer", "waves", "IN")
    assert record.run_id == record.config.run_id  # so that a comparison finds it again
    assert record.step_losses.shape == (3, 4)
    assert record.step_losses[1].tolist() == [12.36007, 4.109908, 8.206739, 0.1447609]
    assert record.total_losses.tolist() == [1.700461, 12.36007, 1.760748]
    assert record.epochs == ()
    assert record.is_completed
    assert record.summary.contrast_change[0.4] == 0.4131662845611572
    assert record.environment["features"] == "features"


def test_an_old_run_of_style_transfer_counts_as_completed_with_its_network_and_pictures(tmp_path) -> None:
    folder = old_style_run(tmp_path / "run")
    assert planned_state(folder) == "new"
    (folder / "samples.npz").touch()
    (folder / "model.pt").touch()
    assert planned_state(folder) == "completed"


def test_a_run_that_begins_again_leaves_no_second_record_of_its_losses(tmp_path) -> None:
    folder = RunFolder(old_style_run(tmp_path / "run")).acquire()
    config = read_run(folder.path).config
    folder.remove_results(STYLE_TRANSFER)
    folder.begin(config, losses=[(4.0, 3.0, 2.0, 1.0)])
    assert not (folder.path / "losses.csv").exists()
    assert (folder.path / "steps.csv").read_text() == "step,total,content,style,total_variation\n0,4,3,2,1\n"
    assert read_run(folder.path).step_losses.tolist() == [[4.0, 3.0, 2.0, 1.0]]
