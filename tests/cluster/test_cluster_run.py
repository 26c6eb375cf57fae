"""Comparisons on a real Ray cluster of this machine: the same records as without one, whatever is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from normbench.runs.records import CHECKPOINT_FILE, read_experiment

TINY = """
name: tiny
norms: [bn, gn]
model: norm_resnet
dataset: {name: synthetic, options: {num_train: 64, num_test: 32}}
train: {epochs: 2, batch_size: 16, precision: fp32}
device: cpu
"""
LONG = TINY.replace("epochs: 2", "epochs: 60")
TIMES = {"train_seconds", "epoch_seconds", "startup_seconds", "images_per_second", "peak_memory_mib", "test_seconds"}


def program(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "normbench", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def results(folder: Path) -> dict[str, Any]:
    """What runs computed: losses as text, and summaries without times."""
    return {
        run.run_id: (
            (run.folder / "steps.csv").read_text(),
            {key: value for key, value in run.summary.model_dump().items() if key not in TIMES},
        )
        for run in read_experiment(folder).runs
    }


def wait_for(what: Any, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)


def is_training(runs: Path, num_runs: int = 1) -> bool:
    return sum(path.stat().st_size > 200 for path in runs.glob("*/*/steps.csv")) >= num_runs


def leftovers() -> list[str]:
    """Files of hosts that are still on this machine."""
    return [str(path) for path in Path("/tmp").glob(f"normbench-cluster-{os.getuid()}/*-*")]


def test_a_comparison_on_a_cluster_of_this_machine_records_what_one_without_does(tmp_path, normbench) -> None:
    """One short run, so that the fast suite has Ray itself in it."""
    (tmp_path / "tiny.yaml").write_text(TINY.replace("[bn, gn]", "[gn]"))
    out, err = program(tmp_path, "compare", "tiny.yaml", "--cluster", "local", "--runs-dir", "cluster").communicate()
    assert "Traceback" not in err
    assert not [line for line in err.splitlines() if "ray" in line.lower()], err
    assert "Ray" not in out
    assert normbench("compare", "tiny.yaml", "--runs-dir", "plain").code == 0
    assert results(tmp_path / "cluster/tiny") == results(tmp_path / "plain/tiny")
    (run,) = read_experiment(tmp_path / "cluster/tiny").runs
    assert run.environment["executor"].startswith("ray ")
    assert len(run.environment["node"]) == 12
    assert run.environment["num_threads"] == 1
    assert leftovers() == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_that_is_lost_costs_no_run_and_no_row_comes_twice(tmp_path, two_nodes) -> None:
    cluster, node = two_nodes
    (tmp_path / "long.yaml").write_text(LONG)
    plain = program(tmp_path, "compare", "long.yaml", "--runs-dir", "plain")
    plain.communicate()
    running = program(tmp_path, "compare", "long.yaml", "--cluster", "auto", "--runs-dir", "cluster")
    wait_for(lambda: is_training(tmp_path / "cluster", 2))
    cluster.remove_node(node, allow_graceful=False)
    _, err = running.communicate(timeout=200)
    assert running.returncode == 0, err
    assert "goes on elsewhere: node" in err
    assert results(tmp_path / "cluster/tiny") == results(tmp_path / "plain/tiny")
    runs = read_experiment(tmp_path / "cluster/tiny").runs
    assert sorted(run.environment.get("attempts", 1) for run in runs) == [1, 2]
    for run in runs:
        assert [row.epoch for row in run.epochs] == list(range(1, 61))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_runs_with_their_checkpoints_and_the_same_command_goes_on(
    tmp_path, two_nodes, number: int, code: int
) -> None:
    (tmp_path / "long.yaml").write_text(LONG)
    command = ("compare", "long.yaml", "--cluster", "auto")
    running = program(tmp_path, *command)
    wait_for(lambda: is_training(tmp_path / "runs", 2))
    running.send_signal(number)
    _, err = running.communicate(timeout=60)
    assert running.returncode == code, err
    for run in read_experiment(tmp_path / "runs/tiny").runs:
        assert run.status.state == "interrupted"
        assert (run.folder / CHECKPOINT_FILE).is_file()
    assert leftovers() == []
    again = program(tmp_path, *command)
    _, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    assert err.count("goes on after epoch") == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_signals_end_it_at_once(tmp_path, two_nodes) -> None:
    (tmp_path / "long.yaml").write_text(LONG)
    running = program(tmp_path, "compare", "long.yaml", "--cluster", "auto")
    wait_for(lambda: is_training(tmp_path / "runs", 2))
    running.send_signal(signal.SIGINT)
    time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    began = time.monotonic()
    running.communicate(timeout=60)
    assert running.returncode == 130
    assert time.monotonic() - began < 20
    assert {run.status.state for run in read_experiment(tmp_path / "runs/tiny").runs} == {"interrupted"}
    assert leftovers() == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_training_process_that_is_killed_costs_its_run_alone(tmp_path, two_nodes) -> None:
    """As on one machine: interrupted, and gone on with by the next call."""
    (tmp_path / "long.yaml").write_text(LONG)
    running = program(tmp_path, "compare", "long.yaml", "--cluster", "auto")
    wait_for(lambda: is_training(tmp_path / "runs", 2))
    command = ["pgrep", "-f", "multiprocessing.spawn import spawn_main"]
    children = [int(line) for line in subprocess.run(command, capture_output=True, text=True).stdout.split()]
    hosts = {pid for pid in children if "ray::" in parent_name(pid)}
    assert hosts
    os.kill(min(hosts), signal.SIGKILL)
    _, err = running.communicate(timeout=200)
    assert running.returncode == 1
    assert "was killed by SIGKILL" in err
    states = sorted(run.status.state for run in read_experiment(tmp_path / "runs/tiny").runs)
    assert states == ["completed", "interrupted"]


def parent_name(pid: int) -> str:
    parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
    return Path(f"/proc/{parent}/cmdline").read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_nodes_are_listed_with_what_fits(tmp_path, two_nodes) -> None:
    listing = program(tmp_path, "cluster", "--json")
    out, err = listing.communicate(timeout=90)
    assert listing.returncode == 0, err
    rows = json.loads(out)["nodes"]
    assert [row["runs_at_once"] for row in rows] == [1, 1]
    assert rows[0]["torch"] == rows[1]["torch"] != "missing"
    assert rows[0]["differs_in"] == []
