"""Trains some runs of a bundle again, and judges whether what comes out is what was recorded."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from normbench.bundle.verify import Check, Verification, bundle_experiment
from normbench.config.load import load_config
from normbench.errors import ConfigError
from normbench.experiment.execute import plan_experiment
from normbench.experiment.executor import LocalExecutor
from normbench.experiment.interrupts import HeldSignals
from normbench.experiment.progress import make_progress
from normbench.experiment.runner import ExperimentRunner
from normbench.experiment.worker_process import Worker, start_worker
from normbench.report.grouping import Group, sections
from normbench.report.stats import CONFIDENCE, summarize, t_quantile
from normbench.runs.bundle_file import open_bundle
from normbench.runs.copies import read_records, write_run
from normbench.runs.provenance import same_bits_on
from normbench.runs.records import CONFIG_FILE, RunRecord, read_experiment, read_run
from normbench.runs.writer import own_code
from normbench.tasks.classification import TEST_ACCURACY
from normbench.worker import targets

MIN_SEEDS = 3
"""Fewer recorded results allow no interval worth the name."""

_TIMES = {"train_seconds", "test_seconds"}


@dataclass(frozen=True)
class Interval:
    """Where the result of one more run should lie."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def prediction_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return where one more value lies with probability `confidence`, if all are drawn from one normal distribution.

    mean ± t(confidence, n - 1) · s · sqrt(1 + 1/n).

    Raises:
        ValueError: there are fewer than two values.
    """
    estimate = summarize(values)
    if estimate is None or estimate.std is None:
        raise ValueError("a prediction takes two values")
    half_width = t_quantile(confidence, estimate.n - 1) * estimate.std * sqrt(1 + 1 / estimate.n)
    return Interval(estimate.mean - half_width, estimate.mean + half_width)


def are_bits_promised(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Return whether two runs of one config in these environments must have the same losses bit for bit."""
    is_promised = recorded.get("same_bits") == "yes" == here.get("same_bits")
    has_same_images = recorded.get("dataset_sha256") == here.get("dataset_sha256")
    return is_promised and has_same_images and same_bits_on(recorded) == same_bits_on(here)


def rerun_some(
    found: Verification,
    num_runs: int,
    *,
    seed: int | None = None,
    device: str | None = None,
    data_dir: Path | None = None,
    run_code: bool = False,
) -> Verification:
    """Train `num_runs` runs of a verified bundle again, drawn at random, and return `found` with a check for each.

    Runs made of code of their author's take part with `run_code` only, because it is executed.

    Raises:
        ConfigError: the bundle has fewer completed runs of classifiers, or they cannot be planned here.
        DataError: the images are not there.
        DeviceError: the device of the runs is not there, and `device` names no other.
    """
    experiment = read_experiment(bundle_experiment(open_bundle(found.file)))
    pairs = [
        (group, run)
        for section in sections(experiment)
        if TEST_ACCURACY in section.task.measures
        for group in section.groups
        for run in group.completed
        if run_code or not own_code(run.config)
    ]
    if len(pairs) < num_runs:
        without = "" if run_code else " without code of their author's, which is executed with --run-code only"
        raise ConfigError(f"--rerun {num_runs}: {found.file} has {len(pairs)} completed runs of classifiers{without}")
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    chosen = random.Random(seed).sample(pairs, num_runs)
    confidence = 1 - (1 - CONFIDENCE) / num_runs  # so that all of them together are wrongly doubted once in 20 times
    checks = []
    with start_worker() as worker, TemporaryDirectory(prefix="normbench-") as folder:
        for number, (group, run) in enumerate(chosen):
            again = _train(run, worker, Path(folder) / str(number), device, data_dir)
            checks.append(_judge(group, run, again, confidence))
    note = f"runs drawn with --rerun-seed {seed}"
    return replace(found, checks=(*found.checks, *checks), notes=(*found.notes, note))


def _train(run: RunRecord, worker: Worker, folder: Path, device: str | None, data_dir: Path | None) -> RunRecord:
    """Train a run's config again and return the record; with it goes what it was made of."""
    source = folder / "recorded"
    write_run(read_records(run.folder), source)
    flags: dict[str, Any] = {}
    if device is not None and device != run.config.device:
        flags = {"device": device, "train.precision": "auto", "train.engine": "auto"}
    loaded = load_config(source / CONFIG_FILE, flags=flags, default_name="rerun")
    (plan,) = plan_experiment(loaded, worker, data_dir)
    worker.call(targets.check_data, plan.config, data_dir, None)
    progress = make_progress([plan])
    runner = ExperimentRunner(folder, LocalExecutor([worker]), progress, data_dir)
    with HeldSignals() as signals, progress:
        runner.run([plan], signals.arrived)
    return read_run(folder / plan.run_id)


def _judge(group: Group, run: RunRecord, again: RunRecord, confidence: float) -> Check:
    """Compare a run with its repetition: bit by bit where that is promised, else by the spread of recorded seeds."""
    name = f"rerun of {run.run_id}"
    where = again.environment.get("device_name", again.config.device)
    if not again.is_completed:
        return Check(name, (f"it ended {again.status.state}: {again.status.reason}",))
    if are_bits_promised(run.environment, again.environment):
        problem = _first_unequal_bit(run, again)
        return Check(name, (problem,) if problem else (), f"the same bits, on {where}")
    accuracies = [result.summary.test_accuracy for result in group.completed]
    if len(accuracies) < MIN_SEEDS:
        what = f"{len(accuracies)} recorded seeds of {group.label} allow no prediction; {MIN_SEEDS} do"
        return Check(name, (f"nothing shown: the same bits are not promised on {where}, and {what}",))
    interval = prediction_interval(accuracies, confidence)
    accuracy = again.summary.test_accuracy
    said = (
        f"test accuracy {100 * accuracy:.2f} % on {where}; {len(accuracies)} recorded seeds predict "
        f"{100 * max(0.0, interval.low):.2f} to {100 * min(1.0, interval.high):.2f} %"
    )
    return Check(name, () if accuracy in interval else (said,), said if accuracy in interval else "")


def _first_unequal_bit(run: RunRecord, again: RunRecord) -> str | None:
    """Return where the losses or rows of two runs differ first; None if they are the same."""
    if run.step_losses.shape != again.step_losses.shape:
        return f"{len(again.step_losses)} steps instead of {len(run.step_losses)}"
    if unequal := np.flatnonzero((run.step_losses != again.step_losses).any(axis=1)).tolist():
        step = unequal[0]
        old, new = run.total_losses[step], again.total_losses[step]
        return f"not the same bits: the loss of step {step} is {new:.7g}, and was {old:.7g}"
    for old_row, new_row in zip(run.epochs, again.epochs, strict=True):
        if old_row.model_dump(exclude=_TIMES) != new_row.model_dump(exclude=_TIMES):
            return f"not the same bits: epoch {new_row.epoch} has other results"
    return None
