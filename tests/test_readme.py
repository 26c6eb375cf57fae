"""Every command of the README is run, as it stands there but on less data."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TINY = ["--set", "dataset={name: synthetic, options: {num_train: 64, num_test: 40}}", "--device", "cpu"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = [line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


NORMBENCH = [line for line in commands() if line.startswith("normbench ")]
MAKE = [line for line in commands() if line.startswith("make")]


def test_every_line_is_a_command_that_is_run_here() -> None:
    assert set(commands()) == {*NORMBENCH, *MAKE, ". .venv/bin/activate"}
    assert len(NORMBENCH) >= 10


def test_every_normbench_command_runs_in_their_order(normbench: Callable[..., Any], tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for line in NORMBENCH:
        arguments = shlex.split(line)[1:]
        if arguments[0] in ("train", "compare"):
            arguments += TINY
            arguments += ["--epochs", "1"] if arguments[0] == "compare" or "--epochs" not in line else []
            arguments += ["--seeds", "1"] if arguments[0] == "compare" else []
        if arguments[0] == "bench":
            arguments += ["--device", "cpu", "--rounds", "1", "--batch-sizes", "4", "--norms", "bn"]
        if arguments[:2] == ["data", "fetch"]:
            # Nothing listens there: tests/data downloads from a server.
            refused = normbench(*arguments, "--url", "http://127.0.0.1:9/x.tar.gz", "--data-dir", str(tmp_path))
            assert refused.code == 3, refused.err
            continue
        result = normbench(*arguments)
        assert result.code == 0, (line, result.err)
        assert result.out.strip(), line
    assert {path.parent.parent.name for path in tmp_path.glob("runs/*/report/report.html")} == {
        "train",
        "bn_gn_gn+ws-resnet9-e1",
        "tutorial",
    }


@pytest.mark.parametrize("line", MAKE)
def test_a_make_target_exists(line: str) -> None:
    plan = subprocess.run(
        ["make", "--dry-run", *shlex.split(line)[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert plan.returncode == 0, plan.stderr
    assert ".venv/bin" in plan.stdout


def test_the_config_example_is_valid(normbench: Callable[..., Any], tmp_path: Path) -> None:
    (example,) = blocks("yaml")
    (tmp_path / "example.yaml").write_text(example, encoding="utf-8")
    assert len(yaml.safe_load(example)["norms"]) == 3
    result = normbench("compare", "example.yaml", "--dry-run", "--device", "cpu")
    assert result.code == 0, result.err
    assert result.out.count("norm_resnet-bs64") == 9


@pytest.mark.usefixtures("normbench")
def test_the_python_examples_run() -> None:
    comparison, layers = blocks("python")
    assert comparison.count("seeds=3") == 1
    less = (
        "seeds=1, epochs=1, device='cpu', dataset={'name': 'synthetic', 'options': {'num_train': 64, 'num_test': 40}}"
    )
    names: dict[str, Any] = {}
    exec(comparison.replace("seeds=3", less), names)
    assert [row["norm"] for row in names["rows"]] == ["bn", "gn"]
    exec(layers, names)
    assert names["logits"].shape == (2, 10)
