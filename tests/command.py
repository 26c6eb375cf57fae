"""`normbench` as a user starts it, in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TINY = """
norms: [bn, gn]
model: norm_resnet_small
dataset: {name: synthetic, options: {num_train: 32, num_test: 20}}
train: {epochs: 2, batch_size: 16}
device: cpu
"""
"""A comparison of two runs of two epochs of two steps."""

LONG = """
norms: [bn, gn]
model: norm_resnet_small
dataset: {name: synthetic, options: {num_train: 64, num_test: 20}}
train: {epochs: 500, batch_size: 16}
device: cpu
"""
"""A comparison that no test lets come to its end."""


def environment(**extra: str) -> dict[str, str]:
    """The test's own environment, without what would change what is printed or found."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("NORMBENCH_", "COLUMNS", "FORCE_"))
    }
    return {**kept, "OMP_NUM_THREADS": "1", **extra}


def start(folder: Path, *arguments: str, **extra: str) -> subprocess.Popen[str]:
    """Start the program in `folder`, as the leader of its own process group, as a shell does.

    Ctrl-C works there even where the tests themselves run in the background, which ignores it.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "normbench", *arguments], cwd=folder, env=environment(**extra), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def run(folder: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    with start(folder, *arguments, **extra) as process:
        out, err = process.communicate(timeout=180)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until `condition` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def num_epochs(folder: Path, run_name: str = "bn-") -> int:
    """The epochs recorded of the run whose folder's name starts so."""
    return sum(path.read_text().count("\n") for path in folder.glob(f"runs/*/{run_name}*/metrics.jsonl"))


def signal_group(process: subprocess.Popen[str], number: int) -> None:
    """Do what a terminal does at Ctrl-C: signal the program and its worker."""
    os.killpg(process.pid, number)


def worker_pids(process: Any) -> list[int]:
    """The processes that train, as Linux's /proc lists them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(re.findall(r"^PPid:\s*(\d+)", (folder / "status").read_text(), re.M)[0])
            words = (folder / "cmdline").read_bytes()
            is_spawned = isinstance(process, subprocess.Popen)
            is_worker = b"spawn_main" in words if is_spawned else words and b"resource_tracker" not in words
        except OSError:  # it has ended meanwhile
            continue
        if parent == process.pid and is_worker:
            found.append(int(folder.name))
    return found
