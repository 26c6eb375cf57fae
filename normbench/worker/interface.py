"""The interface between training processes and tasks: what each task can build, check and load."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from normbench.config.schema import EvaluateConfig
from normbench.engine.trainer import Trainer, Training
from normbench.errors import ConfigError, NormBenchError
from normbench.evaluation.average import WeightAverage
from normbench.kernels.support import switched_off
from normbench.own_code import describe, place_of
from normbench.runs.evaluation_file import Evaluation
from normbench.runs.events import TrainingDone

STILL = 1e-12
"""The learning rate while timing: steps cost the same, and no norm can diverge."""


@dataclass(frozen=True)
class LoadedRun:
    """A run that is ready to train, or to load a checkpoint."""

    trainer: Trainer
    facts: Mapping[str, Any]
    """Entries of `environment.json` beside those of the device."""
    finish: Callable[[TrainingDone, Path], TrainingDone] = lambda done, folder: done
    """Completes the result of the training and may write files into the run's folder."""
    problems: tuple[str, ...] = ()
    """Inputs that the run does without, a line each."""
    average: WeightAverage = field(default_factory=WeightAverage)
    """Of the weights after the last epochs, as far as an evaluation asks for it."""
    evaluate: Callable[[EvaluateConfig, WeightAverage], Evaluation] | None = None
    """Measures more than the result of the trained network; None where there is no more."""


class WorkerTask(Protocol):
    """One task in a training process (`Task.trainer`). Configs are the task's own; `prerequisite` is a run's folder."""

    def resolve(self, draft: Mapping[str, Any]) -> Any:
        """Return the run's config with all decided that depends on this machine.

        Raises:
            ConfigError: the precision or engine does not exist on the device.
            DeviceError: the device is not there.
        """

    def check_model(self, config: Any) -> None:
        """Build the run's model and push one batch through it.

        Raises:
            ConfigError: an option does not fit, or the norm cannot work in the model.
        """

    def check_data(self, config: Any, data_dir: Path | None, prerequisite: Path | None) -> None:
        """Load what the run reads, so that what is missing is reported before anything is trained.

        Raises:
            DataError: a data set, image or feature network is missing or damaged.
        """

    def load_run(self, config: Any, data_dir: Path | None, prerequisite: Path | None) -> LoadedRun:
        """Load the run's images and build its trainer."""

    def load_model(self, config: Any, folder: Path) -> nn.Module:
        """Return the network that a completed run kept in its folder.

        Raises:
            NormBenchError: none was kept, or it is damaged.
        """

    def load_timed(self, config: Any, data_dir: Path | None, prerequisite: Path | None) -> tuple[Training, float]:
        """Return a training on whole batches that leaves the weights as they are, and the steps of a real epoch."""


def try_model(model: nn.Module, images: Tensor, subject: str) -> Any:
    """Push a batch through `model` in torch's own operations, and return what comes out.

    The model may be on the meta device. None where there is no memory for it.

    Raises:
        ConfigError: the model refuses the batch; the message begins with `subject`, or with file and line where that
            happened in code of a user's own.
    """
    try:
        with torch.no_grad(), switched_off(), redirect_stdout(sys.stderr):
            return model.train()(images)
    except torch.OutOfMemoryError:
        return None  # the norm works; whether there is memory for a run is for the run to say
    except NormBenchError:
        raise
    except Exception as error:
        place = place_of(error)
        if place is not None:
            raise ConfigError(f"{place}: {subject}: {describe(error)}") from error
        if isinstance(error, (ValueError, RuntimeError, ZeroDivisionError)):
            raise ConfigError(f"{subject}: {error}") from error
        raise
