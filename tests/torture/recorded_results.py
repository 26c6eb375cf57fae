"""What was recorded of an experiment that does not depend on how often it was disturbed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from normbench.runs.atomic import PARTIAL_FILES
from normbench.runs.records import read_run

TIMES = ("seconds", "memory", "images_per_second")


def results(folder: Path) -> dict[str, Any]:
    """All that was recorded of the runs in an experiment's folder, but for times, memory and processes."""
    found: dict[str, Any] = {}
    for run in sorted(path.parent for path in folder.glob("*/status.json")):
        files: dict[str, Any] = {"steps": (run / "steps.csv").read_text()}
        rows = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
        files["rows"] = [_without_times(json.loads(row)) for row in rows]
        files["summary"] = _without_times(json.loads((run / "summary.json").read_text()))
        files["config"] = (run / "config.yaml").read_text()
        files["names"] = sorted(path.name for path in run.iterdir() if not path.match(PARTIAL_FILES))
        if (run / "model.pt").exists():
            model = torch.load(run / "model.pt", weights_only=True)["model"]
            files["model"] = {name: tensor.numpy().tobytes() for name, tensor in model.items()}
        assert read_run(run).is_completed
        found[run.name] = files
    return found


def _without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not any(word in key for word in TIMES)}
