"""``normbench demo``: what `compare demo` does, and what to try next."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from normbench.config.built_in import find_config

SMALL = {"dataset": {"name": "synthetic", "options": {"num_train": 32, "num_test": 20}}, "train": {"epochs": 1}}


@pytest.fixture
def small(normbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The program with a demo of two norms, one seed and few images."""
    config = yaml.safe_load(find_config("demo").read_text(encoding="utf-8")) | SMALL
    file = tmp_path / "demo.yaml"
    file.write_text(yaml.safe_dump(config | {"norms": ["bn", "gn"], "seeds": 1}))
    monkeypatch.setattr("normbench.config.built_in.find_config", lambda _: file)
    monkeypatch.setattr("normbench.experiment.execute.TimingPass.run", lambda *_: None)
    return normbench


def test_the_demo_ends_with_a_table_the_page_and_what_to_try_next(small, tmp_path: Path) -> None:
    code, out, _ = small("demo", "--device", "cpu")
    assert code == 0
    assert (tmp_path / "runs/demo/report/report.html").is_file()
    assert (tmp_path / "runs/demo/report/loss_curves.png").is_file()
    table, _, following = out.partition("Try next:")
    assert "synthetic images, not CIFAR-10" in table
    assert "runs/demo/report/report.html" in table
    commands = [line.split("  #")[0].strip() for line in following.strip().splitlines()]
    assert len(commands) == 3
    shutil.rmtree(tmp_path / "runs")
    for command in (part for line in commands for part in line.split(" && ") if "data fetch" not in part):
        words = shlex.split(command)
        dry = ["--dry-run", "--device", "cpu"] if words[1] == "compare" else []
        assert small(*words[1:], *dry).code == 0, command


def test_the_demo_compares_four_norms_with_three_seeds() -> None:
    config = yaml.safe_load(find_config("demo").read_text(encoding="utf-8"))
    assert (config["norms"], len(config["seeds"])) == (["bn", "ln", "in", "gn"], 3)
