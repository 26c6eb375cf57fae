"""The same bits twice: one config in processes of their own, side by side, killed and continued, on one GPU and on two.

Compared are the losses of all steps, as text, and all tensors of the networks that are kept.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from command import start, wait_for
from features_run import write_features_run

from normbench.norms import NORMS

DATA = "dataset: {name: synthetic, options: {num_train: 320, num_test: 100}}"
NORM_RESNET = f"name: c\nnorms: [NORMS]\n{DATA}\ntrain: {{epochs: 3, augment: crop_flip}}"
RESNET9 = f"name: c\nnorms: [bn, gn]\nmodel: resnet9\n{DATA}\ntrain: {{epochs: 3, schedule: one_cycle}}"
VIT = f"name: c\nnorms: [ln, rms]\nmodel: vit\n{DATA}\ntrain: {{epochs: 3}}"
STYLE = """
name: c
norms: [in, bn]
content: synthetic
num_content: 64
image_size: 32
style_size: 32
features: FEATURES
train: {steps: 100, batch_size: 8}
"""
PARTS = 4
"""All norms at once take longer than a test may."""
CONFIGS = {
    **{
        f"norm_resnet {part}": NORM_RESNET.replace("NORMS", ", ".join(list(NORMS)[part::PARTS]))
        for part in range(PARTS)
    },
    "resnet9": RESNET9,
    "vit": VIT,
    "vit in fp32": f"{VIT[:-1]}, precision: fp32}}",
    "style": STYLE,
}
LONG = f"name: c\nnorms: [bn]\nmodel: MODEL\n{DATA}\ntrain: {{epochs: EPOCHS, batch_size: 32, precision: PRECISION}}"
"""It trains for longer than the second after which the first checkpoint is written."""

pytestmark = pytest.mark.slow
gpu = pytest.mark.gpu
two_gpus = pytest.mark.two_gpus


def launch(folder: Path, config: str, device: str, **environment: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    features = folder.parent / "features"
    if "FEATURES" in config and not features.exists():
        write_features_run(features)
    (folder / "c.yaml").write_text(config.replace("FEATURES", str(features)))
    command = ["stylize", "compare"] if "content:" in config else ["compare"]
    return start(folder, *command, "c.yaml", "--device", device, "--keep-checkpoint", **environment)


def finish(process: subprocess.Popen[str]) -> None:
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err


def side_by_side(folders: list[Path], config: str, device: str, **environment: str) -> None:
    """Train `config` in every folder, all at the same time."""
    with ExitStack() as stack:
        started = [stack.enter_context(launch(folder, config, device, **environment)) for folder in folders]
        for process in started:
            finish(process)


def bits(folder: Path) -> dict[str, Any]:
    """Map each run to its losses and its weights; a run that makes no promise has left it out."""
    found = {}
    for run in sorted(path.parent for path in folder.glob("runs/*/*/summary.json")):
        environment = json.loads((run / "environment.json").read_text())
        if environment["same_bits"] == "yes":
            weights = torch.load(run / "checkpoint.pt", weights_only=True)["model"]
            kept = {name: tensor.cpu().numpy().tobytes() for name, tensor in weights.items()}
            found[run.name] = ((run / "steps.csv").read_text(), kept)
    assert found
    return found


@gpu
@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_side_by_side_and_one_alone_give_the_same_bits(tmp_path: Path, name: str) -> None:
    side_by_side([tmp_path / "a", tmp_path / "b"], CONFIGS[name], "cuda")
    side_by_side([tmp_path / "c"], CONFIGS[name], "cuda")
    first = bits(tmp_path / "a")
    assert first == bits(tmp_path / "b") == bits(tmp_path / "c")
    for run in tmp_path.glob("a/runs/c/*/environment.json"):
        environment = json.loads(run.read_text())
        if environment["norm_path"] in ("fused", "no norm layers"):
            assert environment["same_bits"] == "yes", run.parent.name


def kill_and_continue(folder: Path, config: str, device: str, **environment: str) -> None:
    """Kill the program with its worker as soon as there is a checkpoint, and run it again, to the end."""
    with launch(folder, config, device, **environment) as process:
        wait_for(lambda: any(folder.glob("runs/c/bn-*/checkpoint.pt")), 150)
        os.killpg(process.pid, signal.SIGKILL)
    (run,) = (path.parent for path in folder.glob("runs/c/*/checkpoint.pt"))
    assert not (run / "summary.json").exists(), "it ended before it could be killed"
    with launch(folder, config, device, **environment) as process:
        finish(process)


@pytest.mark.parametrize(
    ("device", "precision", "model", "epochs"),
    [
        ("cpu", "fp32", "norm_resnet", 5),
        # A processor without instructions for bf16 takes four seconds for a step of norm_resnet.
        ("cpu", "bf16", "norm_resnet_small", 25),
        pytest.param("cuda", "bf16", "norm_resnet", 400, marks=gpu),
        pytest.param("cuda", "fp32", "norm_resnet", 400, marks=gpu),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bits(
    tmp_path: Path, device: str, precision: str, model: str, epochs: int
) -> None:
    config = LONG.replace("EPOCHS", str(epochs)).replace("PRECISION", precision).replace("MODEL", model)
    threads = {"OMP_NUM_THREADS": "2"}
    side_by_side([tmp_path / "a", tmp_path / "b"], config, device, **threads)
    kill_and_continue(tmp_path / "killed", config, device, **threads)
    straight = bits(tmp_path / "a")
    assert straight == bits(tmp_path / "b")
    assert straight == bits(tmp_path / "killed")
    (file,) = tmp_path.glob("killed/runs/c/*/environment.json")
    assert json.loads(file.read_text())["num_threads"] == 2


@gpu
@two_gpus
@pytest.mark.parametrize("config", [RESNET9, STYLE], ids=["resnet9", "style"])
def test_runs_on_two_gpus_give_the_bits_of_one(tmp_path: Path, config: str) -> None:
    with launch(tmp_path / "0", config, "cuda", CUDA_VISIBLE_DEVICES="0") as first:
        with launch(tmp_path / "1", config, "cuda", CUDA_VISIBLE_DEVICES="1") as second:
            finish(second)
        finish(first)
    side_by_side([tmp_path / "both"], config, "cuda", CUDA_VISIBLE_DEVICES="0,1")
    assert bits(tmp_path / "0") == bits(tmp_path / "1") == bits(tmp_path / "both")
