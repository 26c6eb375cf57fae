"""What a style-transfer run leaves on disk, and how to read it back. Needs no torch.

runs/<experiment>/
  experiment.yaml            StyleExperiment, resolved
  <norm>-stylenet-s0-<hash8>/
    config.yaml              StyleRunConfig
    environment.json         versions, device, commit, feature network, argv
    losses.csv               a line a training step: total, content, style, total variation
    status.json              normbench.runs.records.Status
    samples.npz              content images, the same stylized, and the style image
    model.pt                 what `normbench stylize apply` takes
    summary.json             StyleSummary, written last
    loss_curve.png, pictures.png
    checkpoint.pt            only while unfinished
  report/                    page, tables, curves, picture grid, contrast figure
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from normbench.errors import RunError
from normbench.runs.records import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    STATUS_FILE,
    STYLE_LOSSES_FILE,
    SUMMARY_FILE,
    Status,
    find_runs,
    read_settings,
)
from normbench.style.config import StyleRunConfig

LOSSES_HEADER = "step,total,content,style,total_variation\n"
SAMPLES_FILE = "samples.npz"
MODEL_FILE = "model.pt"


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
    """Of the steps alone: no compilation, capture or warm-up."""
    startup_seconds: float
    """From the start of building to the first timed step."""
    images_per_second: float
    """Content images, in training."""
    peak_memory_mib: float | None
    """What training added to the images that were already on the device."""
    contrast_change: Mapping[float, float]
    """By factor of the content image's contrast: how much the output changes (`apply.contrast_changes`)."""


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
    status: Status
    summary: StyleSummary | None
    losses: NDArray[np.float64]
    """``(steps, 4)``: total, content, style and total variation."""
    environment: Mapping[str, Any]
    samples: Samples | None

    @property
    def run_id(self) -> str:
        """The folder's name."""
        return self.folder.name


@dataclass(frozen=True)
class StyleExperimentRecord:
    """All style-transfer runs of one experiment folder, in the order of the experiment's norms, then seeds."""

    folder: Path
    runs: tuple[StyleRun, ...]
    settings: Mapping[str, Any]
    """What experiment.yaml says; empty where it is not recorded."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name


def read_style_run(folder: Path) -> StyleRun:
    """Read one run folder, finished or not.

    Raises:
        RunError: it is none, or a file in it cannot be understood.
    """
    try:
        config = StyleRunConfig.model_validate(yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8")))
        status = Status.model_validate_json((folder / STATUS_FILE).read_text(encoding="utf-8"))
        summary_file = folder / SUMMARY_FILE
        summary = StyleSummary.model_validate_json(summary_file.read_text("utf-8")) if summary_file.exists() else None
        environment_file = folder / ENVIRONMENT_FILE
        environment = json.loads(environment_file.read_text(encoding="utf-8")) if environment_file.exists() else {}
        losses = _read_losses(folder / STYLE_LOSSES_FILE)
        return StyleRun(folder, config, status, summary, losses, environment, _read_samples(folder))
    except (OSError, ValidationError, ValueError, KeyError, yaml.YAMLError, BadZipFile) as error:
        raise RunError(f"{folder}: not a readable style-transfer run: {error}") from error


def read_style_experiment(folder: Path) -> StyleExperimentRecord:
    """Read all style-transfer runs under `folder`.

    Raises:
        RunError: there is none, or one cannot be understood.
    """
    run_folders = find_runs(folder, of_style=True)
    if not run_folders:
        raise RunError(f"{folder}: no style-transfer runs there")
    runs = [read_style_run(path) for path in run_folders]
    settings = read_settings(folder)
    order = {norm.get("label") or norm["name"]: position for position, norm in enumerate(settings.get("norms", []))}
    runs.sort(key=lambda run: (order.get(run.config.label, len(order)), run.config.seed, run.run_id))
    return StyleExperimentRecord(folder, tuple(runs), settings)


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
