"""A disk with too little space, too few inodes, that is read-only, or whose files and folders may not be touched.

File systems in memory with so many bytes or inodes are mounted, which Linux allows to root. `NORMBENCH_TORTURE` tries
every number of inodes and pages that the experiment needs; without it, a sample.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from recorded_results import results

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts file systems"),
]

CONFIG = """
name: c
norms: [bn, gn]
dataset: {name: synthetic, options: {num_train: 48, num_test: 20}}
train: {epochs: 2, batch_size: 16}
device: cpu
"""
COMMAND = ("compare", "c.yaml")
IS_WHOLE = "NORMBENCH_TORTURE" in os.environ
INODES = range(1, 80) if IS_WHOLE else (1, 2, 3, 5, 9, 14, 20, 30, 45)
KIB = [*range(4, 100, 4), *range(100, 45_000, 700)] if IS_WHOLE else (4, 8, 16, 24, 60, 5_000, 19_000, 37_500)


@pytest.fixture(autouse=True)
def checkpoints_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("normbench.worker.train_run.MIN_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr("normbench.worker.train_run.MAX_CHECKPOINT_SHARE", 1e9)
    monkeypatch.setattr("normbench.worker.train_run.SECONDS_AFTER_FAILED_CHECKPOINT", 0.0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the experiment records where nothing is in its way."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "c.yaml").write_text(CONFIG)
    subprocess.run([sys.executable, "-m", "normbench", *COMMAND], cwd=folder, check=True, capture_output=True)
    return results(folder / "runs" / "c")


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "normbench-test", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def check_refusal(result: Any, runs: Path) -> None:
    """What could not be written is told in a line, with a code that is not 0, and no half of a file is left."""
    assert result.code in (0, 1, 3), result
    assert "Traceback" not in result.err
    if result.code == 0:
        assert (runs / "c" / "report" / "report.html").exists(), result.err
    else:
        assert "cannot be written" in result.err or "cannot be read" in result.err, result.err
    assert not list(runs.rglob(".*.partial"))


def check_end(result: Any, runs: Path, undisturbed: dict[str, Any]) -> None:
    assert result.code == 0, result.err
    assert "Traceback" not in result.err
    assert results(runs / "c") == undisturbed
    assert (runs / "c" / "report" / "report.html").exists()


@pytest.mark.parametrize("options", [*(f"nr_inodes={n}" for n in INODES), *(f"size={n}k" for n in KIB)])
def test_a_full_disk_costs_nothing_but_what_was_not_written(
    normbench: Callable[..., Any], tmp_path: Path, undisturbed: dict[str, Any], options: str
) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    with mounted(tmp_path / "disk", options) as disk:
        first = normbench(*COMMAND, "--runs-dir", str(disk))
        check_refusal(first, disk)
        remount(disk, "size=100m,nr_inodes=1000")
        check_end(normbench(*COMMAND, "--runs-dir", str(disk)), disk, undisturbed)


def test_a_disk_that_becomes_read_only(
    normbench: Callable[..., Any], tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    with mounted(tmp_path / "disk", "size=100m") as disk:
        (disk / "c").mkdir()
        remount(disk, "ro")
        result = normbench(*COMMAND, "--runs-dir", str(disk))
        assert result.code == 3
        assert "Read-only file system" in result.err
        check_refusal(result, disk)
        remount(disk, "rw")
        check_end(normbench(*COMMAND, "--runs-dir", str(disk)), disk, undisturbed)


@contextmanager
def without_override() -> Iterator[None]:
    """Let permissions hold for root, too: without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (linux/capability.h)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    before = data[0]
    data[0] = before & ~0b110
    assert libc.capset(header, data) == 0
    try:
        yield
    finally:
        data[0] = before
        assert libc.capset(header, data) == 0


def test_what_may_not_be_touched(normbench: Callable[..., Any], tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """Each folder and file of an experiment of which one run is completed and one is not, in turn."""
    (tmp_path / "c.yaml").write_text(CONFIG)
    runs = tmp_path / "runs"
    with mounted(tmp_path / "disk", "size=25m") as disk:  # the second run's checkpoint does not fit beside the first's
        normbench(*COMMAND, "--runs-dir", str(disk))
        subprocess.run(["cp", "-a", str(disk), str(runs)], check=True)
    paths = [runs, *sorted(path for path in runs.rglob("*"))]
    for path in paths:
        for mode in (0, 0o500) if path.is_dir() else (0, 0o400):
            trial = tmp_path / "trial"
            subprocess.run(["cp", "-a", str(runs), str(trial)], check=True)
            place = trial / path.relative_to(runs)
            place.chmod(mode)
            with without_override():
                result = normbench(*COMMAND, "--runs-dir", str(trial))
            where = f"{path.relative_to(runs)} {mode:o}: {result}"
            assert result.code in (0, 1, 3), where
            assert "Traceback" not in result.err, where
            assert result.code == 0 or "cannot be" in result.err, where
            if place.exists():
                place.chmod(0o755 if path.is_dir() else 0o644)
            again = normbench(*COMMAND, "--runs-dir", str(trial), "--retry")
            assert again.code == 0, (where, again)
            assert results(trial / "c") == undisturbed, where
            subprocess.run(["rm", "-rf", str(trial)], check=True)
