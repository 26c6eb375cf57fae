from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from normbench.errors import RunError
from normbench.report import write_report, write_run_report


def test_report_over_finished_failed_and_running_runs(tmp_path: Path, new_run: Callable[..., Path]) -> None:
    new_run(tmp_path, "bn", 0, steps_per_epoch=20)
    new_run(tmp_path, "ln", 0, steps_per_epoch=20, state="diverged", reason="the loss became nan", diverge_at=50)
    new_run(tmp_path, "gn", 0, steps_per_epoch=20, state="running", epochs_done=2)
    new_run(tmp_path, "in", 0, state="failed", reason="out of memory", epochs_done=0, environment={})
    written = write_report(tmp_path)
    assert {path.name for path in written} >= {
        "table.md",
        "table.csv",
        "table.tex",
        "table.json",
        "loss_curves.png",
        "loss_curves.pdf",
        "accuracy.png",
        "accuracy.pdf",
    }
    assert all(path.parent == tmp_path / "report" and path.stat().st_size for path in written)
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == sorted(path.name for path in written)
    rows = json.loads((tmp_path / "report" / "table.json").read_text())["tables"][0]["rows"]
    assert [(row["label"], row["num_completed"]) for row in rows] == [("bn", 1), ("gn", 0), ("in", 0), ("ln", 0)]


def test_the_same_runs_give_the_same_bytes(tmp_path: Path, new_run: Callable[..., Path]) -> None:
    new_run(tmp_path, "bn", 0, steps_per_epoch=20)
    first = {path: path.read_bytes() for path in write_report(tmp_path)}
    assert {path: path.read_bytes() for path in write_report(tmp_path)} == first


def test_a_folder_without_runs_is_said_to_have_none(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no runs"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_runs_own_report(tmp_path: Path, new_run: Callable[..., Path]) -> None:
    folder = new_run(tmp_path, "ln", 3, state="diverged", reason="the loss became nan at step 50", diverge_at=50)
    paths = write_run_report(folder)
    assert [path.name for path in paths] == ["loss_curve.png", "table.md"]
    text = (folder / "table.md").read_text()
    assert "diverged: the loss became nan at step 50" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3
    assert len({len(line) for line in lines}) == 1
