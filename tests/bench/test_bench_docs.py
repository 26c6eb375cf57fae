"""docs/performance.md holds what its records say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from scipy.stats import ttest_1samp

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
SCRIPT = PAGE.with_name("performance_tables.py")


def test_tables_are_those_that_the_script_writes_from_the_records(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    emptied = re.sub(r"(<!-- table: \w+ -->\n).*?(<!-- end -->)", r"\1\2", text, flags=re.DOTALL)
    assert emptied != text
    page = tmp_path / "page.md"
    page.write_text(emptied, encoding="utf-8")
    subprocess.run([sys.executable, str(SCRIPT), str(page)], check=True)
    assert page.read_text(encoding="utf-8") == text, "run: python docs/performance_tables.py docs/performance.md"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the scripts beside the page can be imported."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))


@pytest.mark.usefixtures("scripts")
def test_a_record_keeps_what_the_page_needs_of_results() -> None:
    from performance_records import record_of

    row = {
        "norm": "bn", "variant": "auto", "batch_size": 64, "norm_path": "fused", "peak_memory_mib": 82.15673828125,
        "seconds_per_step": [0.00019141592, 0.0001917], "ms_per_step": 0.19,
    }  # fmt: skip
    argv = ["normbench", "bench", "train", "--runs-dir", ".../b64", "--rounds", "2"]
    environment = {"torch": "2.11.0", "device_name": "NVIDIA H200", "argv": argv, "commit": None}
    result = {"started_at": "2026-11-29T03:00:00+00:00", "environment": environment, "rows": [row]}
    record = json.loads(record_of("steps", "abc1234", [result, result]))
    assert (record["environment"]["torch"], record["environment"]["commit"]) == ("2.11.0", "abc1234")
    kept = {**row, "peak_memory_mib": 82.2, "seconds_per_step": [0.0001914, 0.0001917]}
    del kept["ms_per_step"]
    run = {"command": "normbench bench train --rounds 2", "started_at": result["started_at"], "rows": [kept]}
    assert record["runs"] == [run, run]
    other = {**result, "environment": {**environment, "torch": "2.12.0"}}
    with pytest.raises(SystemExit, match="different machines or versions"):
        record_of("steps", "abc1234", [result, other])


@pytest.mark.usefixtures("scripts")
def test_a_quotient_is_that_of_the_same_round() -> None:
    """On numbers that can be checked in the head."""
    from performance_tables import _against

    ms, mad, quotient, above = _against([2e-3, 4e-3, 9e-3], [1e-3, 2e-3, 3e-3])
    assert (ms, mad) == (4.0, 2.0)
    assert quotient == 2.0
    assert abs(above - 2000) < 1e-6


@pytest.mark.usefixtures("scripts")
def test_trainings_at_once_have_a_table_and_a_picture_of_each_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone a step takes 4 ms, or 6 in the second round; eight at once 2 ms a step of one of them."""
    import performance_tables
    from performance_records import draw_trainings_at_once, record_of

    times = {1: [4e-3, 6e-3, 4e-3], 8: [2e-3, 2e-3, 2e-3]}
    rows = [
        {
            "norm": "bn", "variant": "auto", "engine": "graph", "precision": "bf16", "batch_size": 64,
            "steps_per_epoch": 782, "runs_at_once": count, "seconds_per_step": seconds,
        }
        for count, seconds in times.items()
    ]  # fmt: skip
    result = {
        "started_at": "2026-11-29T03:00:00+00:00", "rows": rows,
        "settings": {"model": "norm_resnet", "num_train": 50_000, "norms": "bn"},
        "environment": {"device_name": "NVIDIA H200", "argv": ["normbench", "bench", "train"]},
    }  # fmt: skip
    (tmp_path / "trainings_at_once.json").write_text(record_of("trainings_at_once", "abc1234", [result]))
    monkeypatch.setattr(performance_tables, "RECORDS", tmp_path)
    header, _, line = performance_tables.trainings_at_once_table().splitlines()
    assert header == "| network | norm | alone (ms/step) | 8 at once | times as fast |"
    assert line == "| norm_resnet, batch 64 | bn | 4.000 | 2.000 | 2.00 |"
    (picture,) = draw_trainings_at_once(tmp_path)
    assert picture.name == "at_once_norm_resnet.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("scripts")
def test_accuracies_in_two_precisions_are_paired_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against scipy's test of the differences; the accuracies themselves differ between seeds by far more."""
    import performance_tables

    differences = {"bn": [0.001, 0.002, 0.0], "gn": [-0.001, 0.001, 0.0015]}
    pairs = [
        {"norm": norm, "seed": seed, "bf16": 0.5 + 0.1 * seed + by, "fp32": 0.5 + 0.1 * seed}
        for norm, found in differences.items()
        for seed, by in enumerate(found)
    ]
    (tmp_path / "amx_accuracy.json").write_text(json.dumps({"pairs": pairs}))
    monkeypatch.setattr(performance_tables, "RECORDS", tmp_path)
    header, _, *lines = performance_tables.amx_accuracy_table().splitlines()
    columns = [cell.strip() for cell in header.strip("|").split("|")]
    rows = {cells[0]: dict(zip(columns, cells, strict=True)) for cells in _cells(lines)}
    assert rows["bn"]["difference (points)"].startswith("+0.10 ± ")
    assert rows["gn"]["pairs"] == "3"
    for margin, column in ((0.0, "p"), (0.005, "equivalence p")):
        raw = {norm: _p(found, margin) for norm, found in differences.items()}
        lower, upper = sorted(raw.values())
        holm = {norm: min(1.0, max(2 * lower, upper) if p == upper else 2 * lower) for norm, p in raw.items()}
        assert {norm: row[column] for norm, row in rows.items()} == {norm: f"{p:.3f}" for norm, p in holm.items()}
    assert rows["bn"]["verdict"] == "equivalent"


def _cells(lines: list[str]) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _p(differences: list[float], margin: float) -> float:
    """The p of the paired t test, or of both one-sided tests against the margin."""
    if margin == 0.0:
        return float(ttest_1samp(differences, 0.0).pvalue)
    below = ttest_1samp(differences, margin, alternative="less").pvalue
    above = ttest_1samp(differences, -margin, alternative="greater").pvalue
    return float(max(below, above))
