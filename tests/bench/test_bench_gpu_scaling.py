"""How a comparison scales over GPUs: the program that measures it, with processes on a CPU in place of GPUs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from normbench.experiment.site import LocalSite

ROOT = Path(__file__).parents[2]
TINY = """
norms: [bn, gn]
dataset: {name: synthetic, options: {num_train: 64, num_test: 32}}
train: {epochs: 1, batch_size: 16, precision: fp32}
device: cpu
"""


def program(path: str) -> ModuleType:
    spec = spec_from_file_location(Path(path).stem, ROOT / path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(gpus: int, seconds: float, **changed: Any) -> dict[str, Any]:
    """A record of 160 runs; a start of 10 s and a timing pass and report of 5 s each, training for the rest."""
    return {
        "comparison": "all", "seeds": 5, "gpus": gpus, "cluster": False, "is_warm_up": False, "runs": 160,
        "completed": 160, "seconds": seconds, "start_seconds": 10.0, "training_seconds": seconds - 20.0,
        "timing_seconds": 5.0, "report_seconds": 5.0, "busy_share": 0.9, "driver_peak_mib": 300.0, "digest": "a",
        **changed,
    }  # fmt: skip


@pytest.fixture
def record() -> dict[str, Any]:
    calls = [call(8, 70.0, is_warm_up=True), call(2, 70.0, busy_share=None), call(1, 120.0), call(8, 32.5)]
    calls.append(call(2, 90.0, cluster=True))
    return {"calls": calls, "environment": {"device_name": "NVIDIA H200"}}


def test_the_table_says_what_share_of_linear_each_number_of_gpus_reaches(record, tmp_path, monkeypatch) -> None:
    tables = program("docs/performance_tables.py")
    monkeypatch.setattr(tables, "RECORDS", tmp_path)
    (tmp_path / "gpus.json").write_text(json.dumps(record))
    page = tables.fill_tables("<!-- table: gpus -->\n<!-- end -->")
    one, two, eight, cluster = (line.strip("| ").split(" | ") for line in page.splitlines()[3:7])
    assert two == ["all, 160/160", "2", "70.0", "10.0", "50.0", "5.0", "5.0", "0.86", "1.00", "-", "8229", "300", "yes"]
    assert (one[7:9], one[9]) == (["1.00", "1.00"], "90")
    assert eight[7:9] == ["0.46", "1.00"]  # 120 s / (8 x 32.5 s), and 100 s / (8 x 12.5 s)
    assert (cluster[0], cluster[7:9]) == ("all, 160/160, cluster", ["-", "-"])  # never tried on one GPU
    record["calls"][-1]["digest"] = "b"
    (tmp_path / "gpus.json").write_text(json.dumps(record))
    assert [line.split(" | ")[-1] for line in tables.gpus_table().splitlines()[2:]] == ["no |"] * 4


def test_the_picture_has_a_line_for_each_comparison(record, tmp_path) -> None:
    record["calls"] += [call(number, 100.0, cluster=True) for number in (1, 8)]
    program("tools/gpu_scaling.py").draw(record, tmp_path / "gpus")
    assert (tmp_path / "gpus.png").stat().st_size > 10_000


@pytest.mark.slow
def test_one_call_measures_all_and_its_parts_add_up(tmp_path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    command = [sys.executable, str(ROOT / "tools/gpu_scaling.py"), "measure", str(tmp_path / "gpus.json")]
    command += ["--gpus", "1,2", "--comparison", f"{tmp_path / 'tiny.yaml'}:2", "--set", "train.lr=0.01"]
    subprocess.run(command, check=True, cwd=tmp_path)
    record = json.loads((tmp_path / "gpus.json").read_text())
    assert [(call["gpus"], call["runs"], call["completed"]) for call in record["calls"]] == [
        (2, 2, 2),
        (1, 4, 4),
        (2, 4, 4),
    ]
    warm_up, one, two = record["calls"]
    assert one["digest"] == two["digest"] != warm_up["digest"]
    assert record["environment"]["device_name"]
    for found in record["calls"]:
        parts = [found[f"{part}_seconds"] for part in ("start", "training", "timing", "report")]
        assert all(part > 0 for part in parts)
        assert sum(parts) == pytest.approx(found["seconds"])
        assert found["driver_peak_mib"] > 50
        assert found["settings"] == ["train.lr=0.01"]
    # The same record goes on with another comparison.
    subprocess.run([*command[:-2], "--gpus", "1", "--set", "train.lr=0.02"], check=True, cwd=tmp_path)
    later = json.loads((tmp_path / "gpus.json").read_text())["calls"]
    assert later[:3] == record["calls"]
    assert [call["settings"] for call in later[3:]] == [["train.lr=0.02"]]
    # What it has is not measured again.
    subprocess.run(command, check=True, cwd=tmp_path)
    assert json.loads((tmp_path / "gpus.json").read_text())["calls"] == later


@pytest.mark.slow
def test_two_devices_give_the_bits_of_one(tmp_path, monkeypatch) -> None:
    tool = program("tools/gpu_scaling.py")
    (tmp_path / "tiny.yaml").write_text(TINY)
    processes = []

    def others(site: LocalSite, due: list[Any]) -> list[dict[str, str]]:
        processes.append(len(due))
        return [{}] * (number - 1)

    monkeypatch.setattr(LocalSite, "_others", others)
    found = []
    for number in (1, 2):
        found.append(tool.compare(tmp_path / "tiny.yaml", 2, tmp_path / str(number), began=time.time()))
    assert processes == [4, 4]
    assert found[0]["digest"] == found[1]["digest"]
    assert (found[1]["runs"], found[1]["completed"]) == (4, 4)
