"""The program that measures the experiments of docs/results again, on a tiny one on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import normbench

ROOT = Path(__file__).parents[2]
TINY = """
norms: [bn, gn]
seeds: 2
model: norm_resnet_small
dataset: {name: synthetic, options: {num_train: 64, num_test: 32}}
train: {epochs: 1, batch_size: 16, precision: fp32}
device: cpu
"""


@pytest.mark.slow
def test_processes_share_each_experiment_which_is_packed_when_it_is_complete(tmp_path) -> None:
    for name in ("first", "second"):
        (tmp_path / f"{name}.yaml").write_text(TINY)
    program = tmp_path / "normbench"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m normbench "$@"\n')
    program.chmod(0o755)
    environment = {
        **os.environ,
        "NORMBENCH": str(program),
        "PROCESSES": "2",
        "RUNS_AT_ONCE": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [str(ROOT / "tools/measure.sh"), str(tmp_path / "out"), str(tmp_path / "first.yaml")]
    subprocess.run([*command, str(tmp_path / "second.yaml")], env=environment, check=True, timeout=300)
    for name in ("first", "second"):
        bundle = tmp_path / "out" / f"{name}.nbz"
        subprocess.run([program, "verify", bundle], env=environment, check=True)
        assert {row["state"] for row in normbench.load_runs(bundle)} == {"completed"}
        assert len(normbench.load_runs(bundle)) == 4
    before = (tmp_path / "out/first.nbz").read_bytes()
    subprocess.run(command, env=environment, check=True, timeout=300)  # all is there: nothing is trained again
    assert (tmp_path / "out/first.nbz").read_bytes() == before
