"""Run folders as training leaves them, made of plausible numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from normbench.report.drawing import Drawn
from normbench.report.task_report import PageFigure

FINAL_ACCURACY = {"bn": 0.752, "ln": 0.703, "in": 0.681, "gn": 0.724}
ENVIRONMENT = {
    "device_name": "NVIDIA H100 80GB HBM3",
    "torch": "2.11.0",
    "cuda": "13.0",
    "platform": "Linux-6.1-x86_64",
    "commit": "0123abc",
    "precision": "bf16",
    "engine": "graph",
}


def make_run(
    experiment: Path,
    norm: str = "bn",
    seed: int = 0,
    *,
    accuracy: float | None = None,
    state: str = "completed",
    reason: str | None = None,
    epochs: int = 5,
    steps_per_epoch: int = 782,
    options: dict[str, Any] | None = None,
    label: str | None = None,
    train: dict[str, Any] | None = None,
    dataset: str = "cifar10",
    device: str = "cuda",
    environment: dict[str, Any] | None = None,
    diverge_at: int | None = None,
    epoch_seconds: float = 0.5,
    epochs_done: int | None = None,
    folder_name: str | None = None,
) -> Path:
    """Write one run folder by the schema of `normbench.runs.records`; numbers follow from norm and seed."""
    rng = np.random.default_rng([sum(map(ord, norm)), seed])
    batch_size = (train or {}).get("batch_size", 64)
    folder = experiment / (folder_name or f"{norm}-norm_resnet-bs{batch_size}-s{seed}-{rng.integers(16**8):08x}")
    folder.mkdir(parents=True)
    if accuracy is None:
        accuracy = FINAL_ACCURACY.get(norm, 0.6 + 0.15 * rng.random()) + 0.006 * rng.standard_normal()
    config = {
        "norm": {"name": norm, "options": options or {}, "label": label, "train": {}},
        "model": {"name": "norm_resnet", "options": {}},
        "dataset": {"name": dataset, "options": {}},
        "train": {"epochs": epochs, **(train or {})},
        "seed": seed,
        "device": device,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if environment != {}:  # empty: the run died before recording it
        (folder / "environment.json").write_text(json.dumps(ENVIRONMENT | (environment or {})))
    if epochs_done is None:
        epochs_done = epochs if state == "completed" else max(0, epochs - 2)
    num_steps = diverge_at if diverge_at is not None else epochs_done * steps_per_epoch
    step = np.arange(num_steps)
    losses = (2.3 - 1.0 * accuracy) * np.exp(-step / (0.8 * steps_per_epoch)) + 1.6 * (1 - accuracy)
    losses = losses + 0.12 * rng.standard_normal(num_steps)
    if diverge_at is not None and num_steps:
        losses[-30:] += np.geomspace(0.1, 1e4, min(30, num_steps))[-losses[-30:].size :]
        losses[-1] = np.nan
    lines = "".join(f"{index},{loss:.6g}\n" for index, loss in enumerate(losses))
    (folder / "steps.csv").write_text("step,loss\n" + lines)
    rows = []
    for epoch in range(1, epochs_done + 1):
        reached = max(0.0, accuracy - 0.25 * (np.exp(-0.9 * (epoch - 1)) - np.exp(-0.9 * (epochs - 1))))
        rows.append(
            {
                "epoch": epoch,
                "num_steps": epoch * steps_per_epoch,
                "train_loss": float(1.9 * (1 - reached) + 0.4),
                "train_accuracy": float(min(1.0, reached + 0.01)),
                "test_loss": float(1.8 * (1 - reached) + 0.5),
                "test_accuracy": float(np.clip(reached + (0.004 * rng.standard_normal() * (epoch < epochs)), 0, 1)),
                "train_seconds": float(epoch_seconds * (1 + 0.01 * rng.standard_normal()) + 0.05 * (epoch == 1)),
                "test_seconds": 0.1,
                "learning_rate": 1e-3,
            }
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status = {"state": state, "reason": reason, "started_at": "2026-01-01T00:00:00+00:00", "pid": 1}
    (folder / "status.json").write_text(json.dumps(status))
    if state == "completed":
        summary = {
            "test_accuracy": accuracy,
            "test_loss": rows[-1]["test_loss"],
            "train_accuracy": rows[-1]["train_accuracy"],
            "train_loss": rows[-1]["train_loss"],
            "num_epochs": epochs,
            "num_steps": num_steps,
            "num_parameters": 1_555_146 if norm == "in" else 1_557_066,
            "train_seconds": sum(row["train_seconds"] for row in rows),
            "epoch_seconds": float(np.median([row["train_seconds"] for row in rows])),
            "startup_seconds": 2.0,
            "peak_memory_mib": 412.5 if device == "cuda" else None,
            "images_per_second": 50_000 / epoch_seconds,
        }
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def make_settings(experiment: Path, norms: list[str], seeds: list[int], **more: Any) -> None:
    """Write experiment.yaml."""
    experiment.mkdir(parents=True, exist_ok=True)
    entries = [{"name": norm, "options": {}, "label": None, "train": {}} for norm in norms]
    (experiment / "experiment.yaml").write_text(yaml.safe_dump({"norms": entries, "seeds": seeds, **more}))


@pytest.fixture
def tutorial(tmp_path: Path) -> Path:
    """Four norms, three seeds, all completed."""
    experiment = tmp_path / "tutorial"
    make_settings(experiment, ["bn", "ln", "in", "gn"], [0, 1, 2])
    times = {"bn": 0.50, "ln": 0.56, "in": 0.53, "gn": 0.58}
    for norm in FINAL_ACCURACY:
        for seed in range(3):
            make_run(experiment, norm, seed, epoch_seconds=times[norm])
    return experiment


@pytest.fixture(scope="session")
def new_run() -> Callable[..., Path]:
    return make_run


@pytest.fixture(scope="session")
def new_settings() -> Callable[..., None]:
    return make_settings


@pytest.fixture(scope="session")
def draw_nothing() -> Callable[[Sequence[PageFigure]], list[Drawn]]:
    """Stands in for `draw_figures`, which takes seconds, where a test reads the texts of a report alone."""
    return lambda figures: [Drawn("", {}) for _ in figures]
