"""How classifiers are built, checked and trained in a worker process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from normbench.config.schema import RunConfig
from normbench.engine.checkpoint import load_checkpoint
from normbench.engine.device import resolve_device, resolve_engine, resolve_precision
from normbench.errors import RunError
from normbench.runs.events import RunEvent
from normbench.runs.records import CHECKPOINT_FILE
from normbench.worker.build import build_run_model, check_model, load_images
from normbench.worker.targets import RunRequest
from normbench.worker.train_run import train_classifier


class _Classification:
    def resolve(self, draft: Mapping[str, Any]) -> RunConfig:
        """Return the run's config with device, precision and engine as they are here."""
        device = resolve_device(draft["device"])
        train = dict(draft["train"])
        train["precision"] = resolve_precision(train["precision"], device)
        train["engine"] = resolve_engine(train["engine"], device)
        return RunConfig.model_validate({**draft, "device": device, "train": train})

    def check_model(self, config: RunConfig) -> None:
        """Build the model and push one batch through it."""
        check_model(config)

    def check_data(self, config: RunConfig, data_dir: Path | None, prerequisite: Path | None) -> None:
        """Load the data set and move it to the device."""
        load_images(config.dataset.name, config.dataset.options, data_dir, config.device)

    def load_model(self, config: RunConfig, folder: Path) -> nn.Module:
        """Return the network whose weights the run kept in its checkpoint.

        Raises:
            RunError: the run kept no checkpoint.
            CheckpointError: the checkpoint cannot be read.
        """
        checkpoint = folder / CHECKPOINT_FILE
        if not checkpoint.is_file():
            raise RunError(f"{folder}: the run kept no checkpoint; keep_checkpoint=True (--keep-checkpoint) keeps it")
        model = build_run_model(config)
        load_checkpoint(checkpoint, lambda state: model.load_state_dict(state["model"]))
        return model

    def train(self, request: RunRequest) -> Iterator[RunEvent]:
        """Train the run and yield its events."""
        return train_classifier(request)


CLASSIFICATION = _Classification()
