"""The program as a stranger has it: a wheel, installed into an empty environment, used in an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
IMAGES = "dataset={name: synthetic, options: {num_train: 64, num_test: 40}}"
SMALL = ["--epochs", "1", "--device", "cpu", "--set", IMAGES]

SCRIPT = """
import json
import normbench
from torch import nn

class Halved(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) / 2

less = dict(epochs=1, device="cpu", dataset={"name": "synthetic", "options": {"num_train": 64, "num_test": 40}})
norms = ["bn", "gn", "./mynorm.py:MyNorm", Halved]
result = normbench.compare(norms=norms, name="script", keep_checkpoint=True, **less)
rows = result.rows()
net = normbench.load_model(rows[2], trust_code=True)
print(json.dumps({"file": normbench.__file__, "complete": result.is_complete, "labels": [row["label"] for row in rows],
                  "losses": [row["test_loss"] for row in rows], "layer": type(net.features[1][0]).__name__}))
"""


def norm_of_the_readme() -> str:
    (text,) = [
        block for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
        if "class MyNorm" in block
    ]  # fmt: skip
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(("#", "import", "from"))]
    assert len(lines) <= 10
    return text


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_wheel_in_an_empty_environment_compares_the_norm_of_the_readme(tmp_path: Path) -> None:
    wheels, empty, environment = tmp_path / "wheels", tmp_path / "empty", tmp_path / "environment"
    empty.mkdir()

    def call(*command: str | Path, code: int = 0) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "NORMBENCH_"))}
        done = subprocess.run(
            list(map(str, command)), cwd=empty, env=kept, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == code, (command, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout

    call(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheels, ROOT)
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    site = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (wheel,) = wheels.glob("normbench-*.whl")
    call(sys.executable, "-m", "pip", "-q", "install", "--no-deps", "--target", site, wheel)
    # torch and the like are those of this environment, whose own NormBench stands behind the wheel's.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def normbench(*arguments: str, code: int = 0) -> str:
        return call(python, "-m", "normbench", *arguments, code=code)

    (empty / "mynorm.py").write_text(norm_of_the_readme())
    checked = json.loads(normbench("check", "./mynorm.py:MyNorm", "--json"))
    assert checked["passes"]
    table = json.loads(normbench("compare", "bn", "gn", "./mynorm.py:MyNorm", *SMALL, "--json"))
    (runs,) = (empty / "runs").iterdir()
    assert "MyNorm" in json.dumps(table)
    recorded = {path.name.split("-")[0]: path for path in runs.glob("*-norm_resnet-*")}
    assert sorted(recorded) == ["bn", "gn", "mynorm"]
    assert (recorded["mynorm"] / "mynorm.py").read_text() == norm_of_the_readme()

    (empty / "script.py").write_text(SCRIPT)
    result = json.loads(call(python, "script.py").splitlines()[-1])
    assert Path(result["file"]).is_relative_to(site)
    assert result["complete"]
    assert result["labels"] == ["BN", "GN", "MyNorm", "Halved"]
    assert result["layer"] == "MyNorm"
    summary = json.loads((recorded["mynorm"] / "summary.json").read_text())
    assert result["losses"][2] == summary["test_loss"]  # the same run from the command line and from Python
    assert result["losses"][2] not in (result["losses"][0], result["losses"][1])

    norms = "bn,./mynorm.py:MyNorm"
    assert "2 runs" in normbench("compare", "tutorial", "--norms", norms, "--seeds", "1", "--dry-run", *SMALL)
    normbench("configs", "copy", "tutorial", "mine.yaml")
    assert (empty / "mine.yaml").read_text() == (ROOT / "configs" / "tutorial.yaml").read_text()
    assert sorted(path.name for path in empty.iterdir()) == ["mine.yaml", "mynorm.py", "runs", "script.py"]
