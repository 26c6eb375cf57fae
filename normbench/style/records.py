"""What a style-transfer run leaves on disk, and how to read it back. Needs no torch.

runs/<experiment>/
  <norm>-stylenet-s0-<hash8>/
    config.yaml              StyleRunConfig
    environment.json         versions, device, commit, feature network, argv
    losses.csv               a line a training step: total, content, style, total variation
    samples.npz              content images, the same stylized, and the style image
    model.pt                 what `normbench stylize apply` takes
    result.json              StyleResult, with state `running` from the start
  report/                    curves, picture grid, contrast figure, table
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from normbench.errors import RunError
from normbench.records import CONFIG_FILE, ENVIRONMENT_FILE
from normbench.style.config import StyleRunConfig

LOSSES_FILE = "losses.csv"
LOSSES_HEADER = "step,total,content,style,total_variation\n"
RESULT_FILE = "result.json"
SAMPLES_FILE = "samples.npz"
MODEL_FILE = "model.pt"

State = Literal["running", "completed", "diverged", "failed", "interrupted"]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class StyleSummary(_Row):
    """A run's numbers. Losses are means over the last tenth of the steps, before weighting."""

    num_steps: int
    num_parameters: int
    content_loss: float
    style_loss: float
    total_variation: float
    total_loss: float
    """The weighted sum."""
    train_seconds: float
    """Of the steps alone."""
    contrast_change: Mapping[float, float]
    """By factor of the content image's contrast: how much the output changes (`apply.contrast_changes`)."""


class StyleResult(_Row):
    """Where a run stands. Times are UTC, ISO 8601."""

    state: State
    reason: str | None = None
    started_at: str
    ended_at: str | None = None
    summary: StyleSummary | None = None


@dataclass(frozen=True)
class Samples:
    """What a picture grid shows: uint8 RGB, images ``(N, H, W, 3)``, the style image ``(S, S, 3)``."""

    content: NDArray[np.uint8]
    stylized: NDArray[np.uint8]
    style: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class StyleRun:
    """One run as read from its folder; what is not there yet is None or empty."""

    folder: Path
    config: StyleRunConfig
    result: StyleResult
    losses: NDArray[np.float64]
    """``(steps, 4)``: total, content, style and total variation."""
    environment: Mapping[str, Any]
    samples: Samples | None


def read_style_run(folder: Path) -> StyleRun:
    """Read one run folder, finished or not.

    Raises:
        RunError: it is none, or a file in it cannot be understood.
    """
    try:
        config = StyleRunConfig.model_validate(yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8")))
        result = StyleResult.model_validate_json((folder / RESULT_FILE).read_text(encoding="utf-8"))
        environment_file = folder / ENVIRONMENT_FILE
        environment = json.loads(environment_file.read_text(encoding="utf-8")) if environment_file.exists() else {}
        return StyleRun(folder, config, result, _read_losses(folder / LOSSES_FILE), environment, _read_samples(folder))
    except (OSError, ValidationError, ValueError, KeyError, yaml.YAMLError) as error:
        raise RunError(f"{folder}: not a readable style-transfer run: {error}") from error


def read_style_experiment(folder: Path) -> list[StyleRun]:
    """Read all style-transfer runs under `folder`, in the order in which they were started.

    Raises:
        RunError: there is none, or one cannot be understood.
    """
    runs = [read_style_run(path.parent) for path in sorted(folder.glob(f"*/{RESULT_FILE}"))]
    if not runs:
        raise RunError(f"{folder}: no style-transfer runs there (a run folder holds {CONFIG_FILE} and {RESULT_FILE})")
    return sorted(runs, key=lambda run: run.result.started_at)


def _read_losses(path: Path) -> NDArray[np.float64]:
    """Read the losses, leaving out a last line that a killed process cut off."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()[1:]
    rows = [[float(cell) for cell in line.split(",")[1:]] for line in lines]
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def _read_samples(folder: Path) -> Samples | None:
    if not (folder / SAMPLES_FILE).exists():
        return None
    with np.load(folder / SAMPLES_FILE, allow_pickle=False) as arrays:
        return Samples(arrays["content"], arrays["stylized"], arrays["style"])
