"""Comparisons on a real Ray cluster of this machine: the same records as without one, whatever is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from normbench.data.formats import Arrays, write_npz
from normbench.runs.records import CHECKPOINT_FILE, read_experiment
from normbench.runs.tuning_file import read_tuning
from normbench.runs.writer import RunFolder

TINY = """
name: tiny
norms: [bn, gn]
model: norm_resnet
dataset: {name: synthetic, options: {num_train: 64, num_test: 32}}
train: {epochs: 2, batch_size: 16, precision: fp32}
device: cpu
"""
SMALL = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
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


def all_ended(ours: Any) -> bool:
    """Whether nothing of NormBench runs on a node any more, soon after the driver has ended."""
    wait_for(lambda: not ours(), 15)
    return True


def is_training(runs: Path, num_runs: int = 1) -> bool:
    return sum(path.stat().st_size > 200 for path in runs.glob("*/*/steps.csv")) >= num_runs


def leftovers() -> list[str]:
    """Files of this test's hosts that are still on this machine."""
    return [str(path) for path in Path(os.environ["TMPDIR"]).glob(f"normbench-cluster-{os.getuid()}/*-*")]


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


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """The long comparison without a cluster."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "long.yaml").write_text(LONG)
    running = program(folder, "compare", "long.yaml")
    _, err = running.communicate(timeout=300)
    assert running.returncode == 0, err
    return folder / "runs/tiny"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_that_is_lost_costs_no_run_and_no_row_comes_twice(tmp_path, two_nodes, plain, ours) -> None:
    cluster, node = two_nodes
    (tmp_path / "long.yaml").write_text(LONG)
    running = program(tmp_path, "compare", "long.yaml", "--cluster", "auto", "--runs-dir", "cluster")
    wait_for(lambda: is_training(tmp_path / "cluster", 2))
    cluster.remove_node(node, allow_graceful=False)
    _, err = running.communicate(timeout=200)
    assert running.returncode == 0, err
    assert "goes on elsewhere: node" in err
    assert results(tmp_path / "cluster/tiny") == results(plain)
    assert all_ended(ours)
    runs = read_experiment(tmp_path / "cluster/tiny").runs
    assert sorted(run.environment.get("attempts", 1) for run in runs) == [1, 2]
    for run in runs:
        assert [row.epoch for row in run.epochs] == list(range(1, 61))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_runs_with_their_checkpoints_and_the_same_command_goes_on(
    tmp_path, two_nodes, ours, number: int, code: int
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
    assert all_ended(ours)
    assert leftovers() == []
    again = program(tmp_path, *command)
    _, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    assert err.count(": goes on after ") == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_signals_end_it_at_once(tmp_path, two_nodes, ours) -> None:
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
    assert all_ended(ours)
    assert leftovers() == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_driver_that_is_killed_leaves_nothing_running_and_the_same_command_goes_on(
    tmp_path, two_nodes, plain, ours
) -> None:
    (tmp_path / "long.yaml").write_text(LONG)
    command = ("compare", "long.yaml", "--cluster", "auto")
    running = program(tmp_path, *command)
    wait_for(lambda: is_training(tmp_path / "runs", 2))
    assert len([line for line in ours() if "ray::Host" in line]) == 2
    wait_for(lambda: len(list(tmp_path.glob(f"runs/tiny/*/{CHECKPOINT_FILE}"))) == 2)
    running.kill()
    running.communicate()
    assert all_ended(ours)
    again = program(tmp_path, *command)
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert err.count(": goes on after ") == 2
    assert results(tmp_path / "runs/tiny") == results(plain)
    assert all_ended(ours)
    assert leftovers() == [], "what the killed call left was not removed by the next"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_that_another_process_writes_is_left_to_it_until_it_ends(tmp_path, two_nodes, plain) -> None:
    (tmp_path / "long.yaml").write_text(LONG)
    name = next(path.name for path in plain.iterdir() if path.name.startswith("gn-"))
    held = RunFolder(tmp_path / "runs/tiny" / name)
    held.acquire()
    running = program(tmp_path, "compare", "long.yaml", "--cluster", "auto")
    try:
        wait_for(lambda: list(tmp_path.glob("runs/tiny/bn-*/summary.json")))
        assert [path.name for path in held.path.iterdir()] == [".lock"]
        assert running.poll() is None
    finally:
        held.release()
    _, err = running.communicate(timeout=200)
    assert running.returncode == 0, err
    assert "another process is training it; left to that" in err
    assert results(tmp_path / "runs/tiny") == results(plain)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_that_joins_gets_runs_and_one_with_other_software_does_not(tmp_path, new_cluster, monkeypatch) -> None:
    cluster = new_cluster()
    (tmp_path / "long.yaml").write_text(LONG.replace("[bn, gn]", "[bn, gn, in, ln]"))
    running = program(tmp_path, "compare", "long.yaml", "--cluster", "auto")
    wait_for(lambda: is_training(tmp_path / "runs"))
    cluster.add_node(**SMALL)
    with monkeypatch.context() as other:
        other.setenv("PYTHONPATH", f"{other_torch(tmp_path)}:{os.environ.get('PYTHONPATH', '')}")
        cluster.add_node(**SMALL)
    _, err = running.communicate(timeout=300)
    assert running.returncode == 0, err
    nodes = [run.environment["node"] for run in read_experiment(tmp_path / "runs/tiny").runs]
    assert len(nodes) == 4
    assert len(set(nodes)) == 2, "one was there, one joined, and the third is left out"
    assert err.count("is left out: it has another torch") == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nodes_with_other_versions_are_shown_and_nothing_is_started(tmp_path, new_cluster, monkeypatch) -> None:
    cluster = new_cluster()
    with monkeypatch.context() as other:
        other.setenv("PYTHONPATH", f"{other_torch(tmp_path)}:{os.environ.get('PYTHONPATH', '')}")
        cluster.add_node(**SMALL)
    cluster.wait_for_nodes()
    listing = program(tmp_path, "cluster", "--json")
    out, err = listing.communicate(timeout=90)
    assert listing.returncode == 3, err
    assert sorted(row["differs_in"] for row in json.loads(out)["nodes"]) == [[], ["torch"]]
    (tmp_path / "tiny.yaml").write_text(TINY)
    running = program(tmp_path, "compare", "tiny.yaml", "--cluster", "auto")
    _, err = running.communicate(timeout=90)
    assert running.returncode == 3
    assert "1 of 2 nodes differ in torch; install the same versions on all nodes" in err
    assert "0.0.1+other" in err
    assert not (tmp_path / "runs").exists()


def other_torch(folder: Path) -> Path:
    """A folder in which a node finds another version of torch first."""
    package = folder / "other" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "version.py").write_text(f'__version__ = "0.0.1+other"\ncuda = {torch.version.cuda!r}\n')
    return package.parent


BLIND = """
import os
def hidden(path, *arguments, stat=os.stat, **options):
    if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(os.environ["HIDDEN"]):
        raise FileNotFoundError(path)
    return stat(path, *arguments, **options)
os.stat = hidden
"""
"""A node on which a folder is not there."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_data_that_the_driver_alone_has_is_sent_once_to_each_node(tmp_path, new_cluster, monkeypatch) -> None:
    data = tmp_path / "data"
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) for count in (50_000, 10_000)]
    labels = [np.arange(count) % 10 for count in (50_000, 10_000)]
    write_npz(Arrays(images[0], labels[0], images[1], labels[1]), data)
    (tmp_path / "cifar.yaml").write_text(
        LONG.replace("synthetic", "cifar10").replace("[bn, gn]", "[bn, gn, in]").replace("epochs: 60", "epochs: 20")
    )
    (tmp_path / "blind").mkdir()
    (tmp_path / "blind/sitecustomize.py").write_text(BLIND)
    places = [Path(tempfile.mkdtemp(prefix="nb", dir="/tmp")) for _ in range(2)]  # sockets want short paths
    size = {"object_store_memory": 300 * 2**20}
    try:
        with monkeypatch.context() as nodes:
            nodes.setenv("PYTHONPATH", f"{tmp_path / 'blind'}:{os.environ.get('PYTHONPATH', '')}")
            nodes.setenv("HIDDEN", str(data))
            nodes.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
            nodes.delenv("NORMBENCH_DATA_DIR", raising=False)
            nodes.setenv("TMPDIR", str(places[0]))
            cluster = new_cluster(**size)
            nodes.setenv("TMPDIR", str(places[1]))
            cluster.add_node(num_cpus=2, **size)
            cluster.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        arguments = ("compare", "cifar.yaml", "--data-dir", str(data))
        running = program(tmp_path, *arguments, "--cluster", "auto")
        wait_for(lambda: is_training(tmp_path / "runs", 3) or running.poll() is not None, 300)
        hosts = [len(list(place.glob("normbench-cluster-*/*-*/.lock"))) for place in places]
        copies = [[file.stat().st_size for file in place.glob("normbench-cluster-*/*-data/*.npz")] for place in places]
        _, err = running.communicate(timeout=300)
        assert running.returncode == 0, err
        assert hosts == [1, 2]
        assert copies == [[(data / "cifar10.npz").stat().st_size]] * 2
        assert [list(place.glob("normbench-cluster-*/*-*")) for place in places] == [[], []]
        alone = program(tmp_path, *arguments, "--runs-dir", "plain")
        _, err = alone.communicate(timeout=300)
        assert alone.returncode == 0, err
        assert results(tmp_path / "runs/tiny") == results(tmp_path / "plain/tiny")
    finally:
        for place in places:
            shutil.rmtree(place, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_learning_rates_are_tuned_on_the_cluster_as_on_one_machine(tmp_path) -> None:
    tuned = TINY + "tune: {lr: [1.0e-3, 1.0e-2], seeds: 1, split: test}\n"
    (tmp_path / "tuned.yaml").write_text(tuned.replace("epochs: 2", "epochs: 1"))
    for name, more in (("cluster", ["--cluster", "local"]), ("plain", [])):
        running = program(tmp_path, "compare", "tuned.yaml", "--runs-dir", name, *more)
        _, err = running.communicate(timeout=300)
        assert running.returncode == 0, err
    for experiment in ("tiny-tune", "tiny"):
        found = results(tmp_path / "cluster" / experiment)
        assert found == results(tmp_path / "plain" / experiment)
        assert len(found) >= 2
        runs = read_experiment(tmp_path / "cluster" / experiment).runs
        assert {run.environment["executor"].split()[0] for run in runs} == {"ray"}
    assert read_tuning(tmp_path / "cluster/tiny").chosen == read_tuning(tmp_path / "plain/tiny").chosen
    assert leftovers() == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_training_process_that_is_killed_costs_its_run_alone(tmp_path, two_nodes, ours) -> None:
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
    assert all_ended(ours)


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
