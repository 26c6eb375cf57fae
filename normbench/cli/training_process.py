"""The process that trains, started before all else, so that torch is there when it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from normbench.experiment.worker_process import Worker


def start_training_process(environment: Mapping[str, str] | None = None) -> Worker:
    """Start a worker, with more environment variables; it imports torch while this process goes on."""
    from normbench.experiment.worker_process import Worker

    return Worker(environment, preload="normbench.worker.train_run")
