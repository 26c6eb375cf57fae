"""Damaged records are named and left out: no command that reads them crashes, hangs or takes memory without bound.

NORMBENCH_TORTURE says how many damages are tried (`make torture`: 100,000); a sample without it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLE = 25
CHUNK = 500
"""Damages that one process tries, in some minutes."""
COUNT = int(os.environ.get("NORMBENCH_TORTURE", "0"))

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")


def faults(first: int, count: int, folder: Path) -> list[str]:
    """Return the faults of these damages, a line each, found by a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("damaged_records.py")), str(first), str(count), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    environment.pop("NORMBENCH_RUNS_DIR", None)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=3600)
    *found, last = done.stdout.splitlines() or [""]
    assert done.returncode == 0, f"the process did not survive: {done.stderr[-2000:]}"
    assert json.loads(last)["damages"] == count
    return found


def test_a_sample_of_damaged_records_is_named_and_left_out(tmp_path: Path) -> None:
    assert faults(1, SAMPLE, tmp_path) == []  # number 0 draws figures, as every thousandth does


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("first", range(1_000, 1_000 + max(COUNT, CHUNK), CHUNK))
def test_damaged_records_are_named_and_left_out(tmp_path: Path, first: int) -> None:
    assert faults(first, CHUNK, tmp_path) == []
