"""Ray clusters on this machine, and what NormBench has running there."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SMALL = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
_MARK = "NORMBENCH_CLUSTER_TEST"


@pytest.fixture(autouse=True)
def place_of_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the files of each test's hosts in a folder of its own; the paths of Ray's sockets must be short."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")


@pytest.fixture
def new_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start a cluster of one node; `RAY_ADDRESS` names it. What runs there inherits the environment of that moment."""
    for name, value in (("RAY_AUTH_MODE", "disabled"), ("RAY_USAGE_STATS_ENABLED", "0"), (_MARK, secrets.token_hex(8))):
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    started: list[Cluster] = []

    def start(**head: Any) -> Cluster:
        cluster = Cluster(initialize_head=True, head_node_args={**SMALL, "include_dashboard": False, **head})
        started.append(cluster)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        return cluster

    try:
        yield start
    finally:
        for cluster in started:
            cluster.shutdown()
        os.environ.pop("RAY_ADDRESS", None)


@pytest.fixture
def two_nodes(new_cluster: Any) -> tuple[Any, Any]:
    """The cluster, and the node of it that may be removed."""
    cluster = new_cluster()
    node = cluster.add_node(**SMALL)
    cluster.wait_for_nodes()
    return cluster, node


@pytest.fixture
def ours(two_nodes: tuple[Any, Any]) -> Any:
    """Return a function that lists NormBench's processes: hosts on the two nodes, training processes and drivers."""
    raylets = {node.all_processes["raylet"][0].process.pid for node in two_nodes[0].list_all_nodes()}
    mark = f"{_MARK}={os.environ[_MARK]}".encode()

    def find() -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                is_host = parent in raylets and command.startswith("ray::Host")
                is_marked = mark in (process / "environ").read_bytes() and int(process.name) != os.getpid()
            except (OSError, ValueError):
                continue  # it has ended
            if is_host or (is_marked and ("multiprocessing" in command or "-m normbench" in command)):
                found.append(f"{process.name} {command}")
        return found

    return find
