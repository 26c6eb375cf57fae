"""How style-transfer networks are built, checked and trained in a worker process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from normbench.config.style import StyleRunConfig
from normbench.engine.device import resolve_device
from normbench.runs.events import RunEvent
from normbench.style.training import check_runs, load_features, load_style_model, train_style_run
from normbench.tasks.style_transfer import MODEL_FILE
from normbench.worker.targets import RunRequest


class _StyleTransfer:
    def resolve(self, draft: Mapping[str, Any]) -> StyleRunConfig:
        """Return the run's config with the device as it is here; precision and engine keep what the config says."""
        return StyleRunConfig.model_validate({**draft, "device": resolve_device(draft["device"])})

    def check_model(self, config: StyleRunConfig) -> None:
        """Read the style image and push one batch through the network."""
        check_runs([config])

    def check_data(self, config: StyleRunConfig, data_dir: Path | None, prerequisite: Path | None) -> None:
        """Load the feature network."""
        load_features(config, _feature_run(config, prerequisite))

    def load_model(self, config: StyleRunConfig, folder: Path) -> nn.Module:
        """Return the network that the run kept.

        Raises:
            DataError: its file is missing or damaged.
        """
        network, _ = load_style_model(folder / MODEL_FILE)
        return network

    def train(self, request: RunRequest) -> Iterator[RunEvent]:
        """Train the run and yield its events."""
        config = request.config
        assert isinstance(config, StyleRunConfig)
        features = _feature_run(config, request.prerequisite)
        return train_style_run(config, features, request.data_dir, request.folder, request.resume)


def _feature_run(config: StyleRunConfig, prerequisite: Path | None) -> Path | None:
    """Return the folder of the resnet9 run that serves as feature network; None for VGG-16."""
    if config.features == "vgg16":
        return None
    return prerequisite if config.features == "resnet9" else Path(config.features)


STYLE_TRANSFER = _StyleTransfer()
