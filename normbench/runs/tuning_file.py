"""``tuning.json`` of an experiment: the trials by which each norm's own learning rate was chosen. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Annotated, Literal

from pydantic import Field

from normbench.runs.atomic import write_text_atomically
from normbench.runs.bundle_file import exists
from normbench.runs.untrusted import checked, read_json
from normbench.tasks.task import Count, Fraction, Row

TUNING_FILE = "tuning.json"

_Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Trial(Row):
    """One norm at one learning rate."""

    label: str
    learning_rate: _Rate
    accuracies: Annotated[tuple[Fraction | None, ...], Field(min_length=1)]
    """One a seed, on the images of `Tuning.split`; None for a run that ended without a result."""

    @property
    def score(self) -> float:
        """The mean accuracy; a run without a result counts as 0."""
        return fmean(accuracy or 0.0 for accuracy in self.accuracies)


class Tuning(Row):
    """All trials of an experiment; nothing where it was not tuned."""

    schema_version: int = 1
    experiment: str = ""
    """The experiment, beside this one, whose runs they are."""
    split: Literal["val", "test"] = "val"
    seeds: tuple[Count, ...] = ()
    shared_rate: _Rate | None = None
    """The one learning rate at which all norms were compared too; None if they were not."""
    trials: tuple[Trial, ...] = ()

    def of(self, label: str) -> list[Trial]:
        """Return the trials of a norm, by increasing learning rate."""
        return sorted((trial for trial in self.trials if trial.label == label), key=lambda trial: trial.learning_rate)

    @property
    def labels(self) -> tuple[str, ...]:
        """The norms that were tuned."""
        return tuple(dict.fromkeys(trial.label for trial in self.trials))

    @property
    def chosen(self) -> Mapping[str, float]:
        """Each norm's own learning rate: the one with the best score, of equal ones the lowest."""
        return {label: max(self.of(label), key=lambda trial: trial.score).learning_rate for label in self.labels}

    def at_edge(self, label: str) -> Literal["lowest", "highest"] | None:
        """Return at which end of the rates that were tried the norm's own lies; None between them."""
        rates = [trial.learning_rate for trial in self.of(label)]
        rate = self.chosen[label]
        return "lowest" if rate == rates[0] else "highest" if rate == rates[-1] else None


def read_tuning(folder: Path) -> Tuning:
    """Return how the experiment in `folder` was tuned; nothing where there is no tuning.json.

    Raises:
        RunError: tuning.json cannot be understood.
    """
    path = folder / TUNING_FILE
    if not exists(path):
        return Tuning()
    return checked(Tuning, read_json(path), path)


def write_tuning(folder: Path, tuning: Tuning) -> None:
    """Write tuning.json; `OSError` where it cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(folder / TUNING_FILE, json.dumps(tuning.model_dump(mode="json"), indent=1) + "\n")
