"""Every command and example of docs/own.md is run, as it stands there but on less data."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "own.md").read_text(encoding="utf-8")
TINY = ["--set", "dataset={name: synthetic, options: {num_train: 64, num_test: 40}}", "--device", "cpu"]
LESS = {
    "compare": ["--device", "cpu", "--epochs", "1", "--seeds", "1"],
    "train": [*TINY, "--epochs", "1"],
    "bench": ["--device", "cpu", "--rounds", "1", "--batch-sizes", "4", "--quick"],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if line.strip()]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the page's examples, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("mynorm", "mynet"):
        attribute = {"mynorm": "class MyNorm", "mynet": "class MyNet"}[name]
        (text,) = [block for block in blocks("python") if attribute in block]
        (tmp_path / f"{name}.py").write_text(text)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(40) % 4
    arrays = {"x_train": images, "y_train": labels, "x_test": images[:20], "y_test": labels[:20]}
    (saving,) = [block for block in blocks("python") if "np.savez" in block]
    exec(saving, arrays)
    return tmp_path


@pytest.mark.usefixtures("files")
def test_the_config_example_plans_four_norms(normbench: Callable[..., Any]) -> None:
    (example,) = blocks("yaml")
    Path("example.yaml").write_text(example)
    assert len(yaml.safe_load(example)["norms"]) == 4
    result = normbench("compare", "example.yaml", "--dry-run", "--device", "cpu", "--json")
    assert result.code == 0, result.err
    assert [plan["norm"] for plan in json.loads(result.out)["plans"]] == ["BN", "MyNorm", "Mine", "InstanceNorm2d"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("files")
def test_every_command_of_the_page_runs_in_its_order(normbench: Callable[..., Any], tmp_path: Path) -> None:
    for line in commands():
        name, *arguments = shlex.split(line)
        assert name == "normbench"
        if arguments[:2] == ["data", "fetch"]:  # nothing listens there: tests/data downloads from a server
            refused = normbench(*arguments, "--url", "http://127.0.0.1:9/x.tar.gz", "--data-dir", str(tmp_path))
            assert refused.code == 3, refused.err
            continue
        if line.endswith("cifar100"):
            missing = normbench(*arguments, "--device", "cpu", "--data-dir", str(tmp_path))
            assert missing.code == 3
            assert "CIFAR-100 not found" in missing.err
            continue
        images = TINY[:2] if arguments[0] == "compare" and "--dataset" not in arguments else []
        result = normbench(*arguments, *LESS.get(arguments[0], []), *images)
        assert result.code == 0, (line, result.out, result.err)
        assert result.out.strip(), line
    assert Path("mine.yaml").is_file()
    assert any(path.name == "mynet.py" for path in tmp_path.glob("runs/*/*/*.py"))
