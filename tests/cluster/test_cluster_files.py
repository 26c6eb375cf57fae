"""What travels to a node and back, what differs between nodes, and errors before anything is started."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from run_events import make_plan

from normbench.cluster import connection, node_files
from normbench.cluster.connection import connected
from normbench.cluster.executor import ClusterExecutor, Slot
from normbench.cluster.node_files import Changes, NodeFolder, paths_in, read_files, with_paths
from normbench.cluster.nodes import Node, check_software, misfits
from normbench.cluster.options import ClusterOptions
from normbench.cluster.probe import probe
from normbench.errors import ConfigError, EnvironmentProblem
from normbench.worker.targets import RunRequest


def test_paths_among_arguments_are_replaced_and_nothing_else(tmp_path) -> None:
    request = RunRequest(make_plan().config, tmp_path / "a", None, True, False, tmp_path / "b")
    arguments = ([request], 3, "text", None)
    assert paths_in(arguments) == {tmp_path / "a", tmp_path / "b"}
    ((moved,), *rest) = with_paths(arguments, {tmp_path / "a": Path("/there")})
    assert (moved.folder, moved.prerequisite, rest) == (Path("/there"), tmp_path / "b", [3, "text", None])
    assert moved.config is request.config


def test_only_files_written_since_travel_back(tmp_path) -> None:
    (tmp_path / "old").write_bytes(b"1")
    (tmp_path / ".lock").touch()
    changes = Changes(tmp_path, ("old", "new"))
    assert changes.read() == {}
    (tmp_path / "new").write_bytes(b"2")
    (tmp_path / "other").write_bytes(b"3")
    assert changes.read() == {"new": b"2"}
    assert changes.read() == {}
    assert read_files(tmp_path) == {"old": b"1", "new": b"2", "other": b"3"}


def test_a_hosts_folder_goes_with_it_and_what_killed_hosts_left_goes_later(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(node_files, "gettempdir", lambda: str(tmp_path))
    first, second = NodeFolder("aa", "1"), NodeFolder("aa", "2")
    assert first.place("run", {"x": b"1"}).stat().st_mode & 0o077 == 0
    assert (first.place_data("cifar10.npz", b"x") / "cifar10.npz").read_bytes() == b"x"
    first.remove()
    assert not first.path.exists()
    assert second.data.exists()
    second.remove()
    assert not second.data.exists()

    third = NodeFolder("bb", "1")
    third._lock.release()  # as when its process is killed
    NodeFolder("cc", "1")
    assert not third.path.exists()


def nodes(**changed: object) -> list[Node]:
    facts = probe()
    return [Node("a" * 56, "10.0.0.1", 4, 1, facts), Node("b" * 56, "10.0.0.2", 4, 0, {**facts, **changed})]


def test_runs_fit_by_gpus_and_cpus() -> None:
    options = ClusterOptions("auto", cpus_per_run=2)
    assert [node.num_runs(options, on_gpus=True) for node in nodes()] == [1, 0]
    assert [node.num_runs(options, on_gpus=False) for node in nodes()] == [2, 2]


def test_nodes_with_other_software_are_named_with_what_differs() -> None:
    check_software(nodes(), ClusterOptions("auto"))
    check_software(nodes(source="0" * 64), ClusterOptions("auto", ship_code=True))
    assert misfits(nodes(python="3.9.1", torch="1.0"), ship_code=True) == {"b" * 56: ["Python", "torch"]}
    with pytest.raises(EnvironmentProblem) as raised:
        check_software(nodes(source="0" * 64), ClusterOptions("auto"))
    text = str(raised.value)
    assert "1 of 2 nodes differ in normbench" in text
    assert "--ship-code" in text
    assert "10.0.0.2" in text
    assert "(00000000)" in text


@pytest.mark.parametrize("address", ["here", "host:", ":6379", "host:x", "host:99999", "ray://host:10001"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="--cluster"), connected(ClusterOptions(address)):
        pass


def test_an_address_where_nothing_listens_is_an_error_within_20_seconds() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        began = time.monotonic()
        with (
            pytest.raises(EnvironmentProblem, match="no Ray cluster answers there"),
            connected(ClusterOptions(address)),
        ):
            pass
    assert time.monotonic() - began < 20


def test_without_ray_the_line_that_installs_it_is_said(monkeypatch, normbench) -> None:
    monkeypatch.setattr(connection.importlib.util, "find_spec", lambda _: None)
    code, out, err = normbench("compare", "bn", "--dataset", "synthetic", "--cluster", "local")
    assert (code, out) == (3, "")
    assert err == "normbench: --cluster needs Ray, which is not installed: pip install 'normbench[ray]'\n"


def test_without_the_flag_nothing_imports_ray() -> None:
    code = (
        "import sys; import normbench.cli.running, normbench.experiment.api, normbench.cli.cluster;"
        "assert 'ray' not in sys.modules and not any(name.startswith('normbench.cluster') for name in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


class IdleProcess:
    """A host that takes what it is given and says nothing."""

    def submit_task(self, task: object) -> None:
        pass


def test_all_norms_of_a_seed_go_to_devices_of_one_name(tmp_path) -> None:
    slots = [Slot(IdleProcess(), {}, name) for name in ("A", "B", "A")]
    executor = ClusterExecutor(SimpleNamespace(), ClusterOptions("auto"), slots, list, {7: "B"})
    waiting = [make_plan(norm, seed=seed) for seed in (0, 7) for norm in ("bn", "gn", "in")]
    placed = {}
    while (position := executor.choose(waiting)) is not None:
        plan = waiting.pop(position)
        executor.submit(plan.run_id, RunRequest(plan.config, tmp_path / plan.run_id, None, False, False))
        slot = next(slot for slot in slots if slot.run_id == plan.run_id)
        placed[plan.config.norm.name, plan.config.seed] = slot.device_name
    # seed 0 takes what is idle first, seed 7 was begun on B, and one of seed 0 waits for an A
    assert placed == {("bn", 0): "A", ("gn", 0): "A", ("bn", 7): "B"}

    slots[:] = [slot for slot in slots if slot.device_name == "A"]  # the only B is lost
    slots[0].run_id = None
    assert waiting[executor.choose(waiting)].config.seed == 0
    del waiting[0]
    assert waiting[executor.choose(waiting)].config.seed == 7
    slots.append(Slot(IdleProcess(), None))  # one that starts might be a B
    executor.ray = SimpleNamespace(wait=lambda *_, **__: ([], []))
    assert executor.choose(waiting) is None
