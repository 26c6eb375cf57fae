"""A sweep from the command line: what would run, what ran, and what TensorBoard sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from normbench.cli import app
from normbench.cli.dry_run import duration

CONFIG = """
device: cpu
norms: [gn]
model: norm_resnet_small
dataset: {name: synthetic, options: {num_train: 32, num_test: 20}}
train: {epochs: 1, batch_size: 16}
"""


def compare(folder: Path, config: str, *flags: str, code: int = 0) -> Any:
    file = folder / "exp.yaml"
    file.write_text(CONFIG + config)
    result = CliRunner().invoke(app, ["compare", str(file), "--runs-dir", str(folder / "runs"), "--json", *flags])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


@pytest.mark.slow
def test_a_probe_runs_is_reported_and_tells_how_long_another_takes(tmp_path: Path) -> None:
    tables = compare(tmp_path, "batch_one: {steps: 5}\n", "--tensorboard")["tables"]
    (row,) = tables[0]["rows"]
    assert row["num_completed"] == 1
    assert row["batch_one"]["num_completed"] == 1
    assert row["batch_one"]["batch_statistics_accuracy"]["mean"] == row["batch_one"]["accuracy"]["mean"], "gn: the same"
    events = [path.parent.name for path in (tmp_path / "runs/exp/report/tensorboard").glob("*/events.out.tfevents*")]
    norms = sorted(name.partition("-norm_resnet_small-")[0] for name in events)
    assert norms == ["figures", "gn", "gn", "none"]

    planned = compare(tmp_path, "batch_one: {steps: 5}\n", "--dry-run", "--seeds", "2")
    assert planned["states"] == {"completed": 3, "new": 3}
    assert (planned["runs"], planned["will_run"]) == (6, 3)
    assert [(run["seed"], run["point"], run["will_run"]) for run in planned["plans"]] == [
        (seed, point, seed == 1) for seed in (0, 1) for point in ("", "at batch size 1", "at batch size 1")
    ]
    assert all((run["estimated_seconds"] is not None) == run["will_run"] for run in planned["plans"])


def test_a_dry_run_prints_learning_rates_counts_and_states(normbench, tmp_path: Path) -> None:
    (tmp_path / "exp.yaml").write_text(CONFIG + "lr_scaling: sqrt\ngrid: {train.batch_size: [64, 16, 1]}\n")
    result = normbench("compare", "exp.yaml", "--dry-run")
    assert result.code == 0, result.err
    rows = [line.split() for line in result.out.splitlines() if line.strip().startswith("gn-")]
    assert [(row[-3], row[-2]) for row in rows] == [("0.001", "new"), ("0.0005", "new"), ("0.000125", "new")]
    assert "3 runs (3 new); 3 to run; their time is unknown" in result.out
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_of_very_many_runs_shows_the_first_and_counts_all(normbench, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("normbench.cli.dry_run.MAX_ROWS", 2)
    (tmp_path / "exp.yaml").write_text(CONFIG + "grid: {train.lr: [1, 2, 3, 4, 5]}\n")
    result = normbench("compare", "exp.yaml", "--dry-run")
    rows = [line.split() for line in result.out.splitlines() if line.strip().startswith("gn-")]
    assert [row[-3] for row in rows] == ["1", "2"]
    assert "... and 3 more, which --json lists\n5 runs (5 new); 5 to run;" in result.out


@pytest.mark.parametrize(
    ("seconds", "text"), [(45.2, "45 s"), (89.4, "89 s"), (90, "2 min"), (5000, "83 min"), (12000, "3 h 20 min")]
)
def test_times_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
