"""Style transfer: what a run's result is, what norms are compared by, and the feature network that it needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from normbench.config.schema import Device
from normbench.config.style import StyleRunConfig
from normbench.tasks.task import SAMPLES_FILE, BaseSummary, Loss, Measure, Task

MODEL_FILE = "model.pt"
"""The trained network, for ``normbench stylize apply``."""

CONTRAST_SHOWN = 0.4
"""The factor of contrast that stands in the tables."""
MARGIN_SHARE = 0.01
"""Differences smaller than this share of the baseline's mean count as equivalent."""

FEATURE_RECIPE: Mapping[str, Any] = {
    "optimizer": "sgd",
    "weight_decay": 5e-4,
    "schedule": "one_cycle",
    "augment": "crop_flip",
}
FEATURE_TRAINING: Mapping[Device, Mapping[str, Any]] = {
    "cuda": {"epochs": 10, "batch_size": 512, "learning_rate": 0.4},
    "mps": {"epochs": 5, "batch_size": 512, "learning_rate": 0.4},
    "cpu": {"epochs": 3, "batch_size": 64, "learning_rate": 0.05},
}
"""How the default feature network is trained: as well as a minute allows, or on a CPU some minutes."""
FEATURE_IMAGES: Mapping[Device, Mapping[str, int]] = {
    "cuda": {},
    "mps": {},
    "cpu": {"num_train": 4000, "num_test": 1000},
}


class StyleSummary(BaseSummary):
    """The result of a style-transfer run. Losses are means over the last tenth of the steps, before weighting."""

    content_loss: Loss
    style_loss: Loss
    total_variation: Loss
    total_loss: Loss
    """The weighted sum."""
    contrast_change: Mapping[float, Loss]
    """By factor of the content image's contrast, how much the output changes (`style.apply.contrast_changes`)."""


def feature_network(config: StyleRunConfig) -> dict[str, Any] | None:
    """Return the config of the run that trains the default feature network; None where the config names another."""
    if config.features != "resnet9":
        return None
    dataset = config.content if config.content in ("cifar10", "synthetic") else "cifar10"
    return {
        "norm": "bn",
        "model": "resnet9",
        "dataset": {"name": dataset, "options": dict(FEATURE_IMAGES[config.device])},
        "train": {**FEATURE_RECIPE, **FEATURE_TRAINING[config.device]},
        "device": config.device,
        "name": f"features-{dataset}",
    }


def _loss(name: str, header: str) -> Measure:
    return Measure(
        name=name,
        header=header,
        unit="",
        of=lambda summary: float(getattr(summary, name)),
        format=".4f",
        higher_is_better=False,
        margin=MARGIN_SHARE,
        margin_is_relative=True,
    )


STYLE_TRANSFER = Task(
    name="style_transfer",
    run_config=StyleRunConfig,
    summary=StyleSummary,
    loss_columns=("total", "content", "style", "total_variation"),
    measures=(
        _loss("content_loss", "content loss"),
        _loss("style_loss", "style loss"),
        _loss("total_loss", "weighted sum of losses"),
        Measure(
            name="contrast_change",
            header=f"change of the output at {100 * CONTRAST_SHOWN:g} % contrast",
            unit="%",
            of=lambda summary: summary.contrast_change.get(CONTRAST_SHOWN),
            format=".1f",
            higher_is_better=False,
            scale=100.0,
            difference_unit="points",
            margin=MARGIN_SHARE,
            margin_is_relative=True,
        ),
    ),
    trainer="normbench.worker.stylizers:STYLE_TRANSFER",
    report="normbench.report.style_report:STYLE_TRANSFER",
    environment_keys=("device_name", "torch", "cuda", "precision", "memory_format", "features"),
    has_epochs=False,
    progress="Step {step}/{steps_per_epoch} | Content: {content:.4f} | Style: {style:.4f}",
    result=lambda summary: f"content {summary.content_loss:.4f}, style {summary.style_loss:.4f}",
    prerequisite=feature_network,
    files=(SAMPLES_FILE, MODEL_FILE),
)
