"""The rules ``nb-1`` that the records of a result must keep, each a function from an experiment to what breaks it."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from normbench.report.grouping import recorded
from normbench.report.page import Report
from normbench.runs.bundle_file import SUMS_FILE
from normbench.runs.record_files import experiment_records, sums_of
from normbench.runs.records import RunRecord
from normbench.runs.timing_file import MACHINE_KEYS, machine_of
from normbench.runs.untrusted import read_bytes
from normbench.runs.writer import own_code

RULE_SET = "nb-1"

_LOSS_DIGITS = 2e-6
"""Relative: `steps.csv` has seven significant digits, and a mean of such numbers is no worse."""
_EVALUATION_MARGIN = 0.005
"""Absolute: an evaluation may come from another device or precision, which moves some images across a border."""
_TIME_DIGITS = 1e-9
"""Relative: sums of the same numbers in another order."""


def runs_of(report: Report) -> list[RunRecord]:
    """Return all runs of the report's experiment, probes too."""
    return [*report.experiment.runs, *report.experiment.probes]


def check_readable(report: Report) -> Iterator[str]:
    """Yield the records that cannot be understood, and runs that had not ended."""
    yield from report.experiment.unreadable
    for run in runs_of(report):
        if run.status.state == "interrupted":
            yield f"{run.run_id}: not ended: {run.status.reason or 'interrupted'}"


def check_records(report: Report) -> Iterator[str]:
    """Yield what contradicts the list of records whose hash is the result's id."""
    folder = report.experiment.folder
    listed = read_bytes(folder / SUMS_FILE).decode(errors="replace")
    found = sums_of(experiment_records(folder))
    for line in sorted({*listed.splitlines()} ^ {*found.splitlines()}):
        what = "listed, and not there" if line in listed.splitlines() else "there, and not listed"
        yield f"{line.partition('  ')[2]}: {what}, according to {SUMS_FILE} of the experiment"


def check_run_ids(report: Report) -> Iterator[str]:
    """Yield runs whose folder's name does not end in the hash of their config, or whose code is not what that names."""
    for run in runs_of(report):
        if run.config.run_id != run.folder.name:
            yield f"{run.run_id}: its config is that of {run.config.run_id}"
        for code in own_code(run.config):
            if hashlib.sha256(read_bytes(run.folder / code.file)).hexdigest() != code.sha256:
                yield f"{run.run_id}: {code.file} is not the code that its config names"


def check_seeds(report: Report) -> Iterator[str]:
    """Yield groups with a seed twice, or with other seeds than the groups that they are compared with."""
    for section in report.sections:
        for groups in section.by_setting:
            every = {run.config.seed for group in groups for run in group.runs}
            for group in groups:
                seeds = Counter(run.config.seed for run in group.runs)
                if twice := sorted(seed for seed, count in seeds.items() if count > 1):
                    yield f"{group.label}: seed {twice[0]} more than once"
                if missing := sorted(every - seeds.keys()):
                    yield f"{group.label}: no run of seed {', '.join(map(str, missing))}, which other norms have"
            planned = {*report.experiment.settings.get("seeds", ())}
            if missing := sorted(planned - every):
                yield f"no run of seed {', '.join(map(str, missing))}, which experiment.yaml asks for"


def check_lengths(report: Report) -> Iterator[str]:
    """Yield runs with more or fewer epochs or steps than their config asks for, or than their result says."""
    for run in runs_of(report):
        planned, summary = run.config.length, run.summary
        num_steps = len(run.step_losses)
        if not run.task.has_epochs:
            if num_steps > planned or (run.is_completed and not num_steps == planned == summary.num_steps):
                yield f"{run.run_id}: {num_steps} steps recorded; its config asks for {planned}"
            continue
        if not _has_equal_epochs(run):
            yield f"{run.run_id}: its epochs have unequal numbers of steps"
        if len(run.epochs) > planned:
            yield f"{run.run_id}: {len(run.epochs)} epochs recorded; its config asks for {planned}"
        if run.is_completed and not len(run.epochs) == planned == summary.num_epochs:
            yield f"{run.run_id}: {len(run.epochs)} epochs recorded, {summary.num_epochs} in its result, of {planned}"
        last = run.epochs[-1].num_steps if run.epochs else 0
        if num_steps < last or (run.is_completed and not num_steps == last == summary.num_steps):
            yield f"{run.run_id}: {num_steps} steps recorded; its epochs say {last}"


def _has_equal_epochs(run: RunRecord) -> bool:
    """Return whether each epoch has as many steps as the first, and that some."""
    first = run.epochs[0].num_steps if run.epochs else 0
    return all(row.num_steps == row.epoch * first > 0 for row in run.epochs)


def check_results(report: Report) -> Iterator[str]:
    """Yield completed runs whose result is not that of their last epoch, or does not follow from their rows."""
    for run in runs_of(report):
        if run.is_completed:
            expected = _last_epoch(run) if run.task.has_epochs else _last_steps(run)
            for name, (value, tolerance) in expected.items():
                found = getattr(run.summary, name)
                is_nan_twice = math.isnan(found) and math.isnan(value)
                if not is_nan_twice and not math.isclose(found, value, rel_tol=tolerance):
                    yield f"{run.run_id}: {name} is {found:.9g} in its result; its rows give {value:.9g}"


def _last_epoch(run: RunRecord) -> dict[str, tuple[float, float]]:
    """Return what the summary of a run with epochs must say, with a relative tolerance."""
    if not run.epochs:
        return {}
    last = run.epochs[-1]
    exact = {
        name: (getattr(last, name), 0.0) for name in ("test_accuracy", "test_loss", "train_accuracy", "train_loss")
    }
    seconds = [row.train_seconds for row in run.epochs]
    return exact | {
        "train_seconds": (math.fsum(seconds), _TIME_DIGITS),
        "epoch_seconds": (median(seconds), _TIME_DIGITS),
    }


def _last_steps(run: RunRecord) -> dict[str, tuple[float, float]]:
    """Return what the summary of a style-transfer run must say: means over the last tenth of its steps."""
    losses = run.step_losses[-max(1, len(run.step_losses) // 10) :].mean(axis=0)
    names = ("total_loss", "content_loss", "style_loss", "total_variation")
    return {name: (float(value), 1e-5) for name, value in zip(names, losses, strict=True)}  # torch added in float32


def check_epoch_losses(report: Report) -> Iterator[str]:
    """Yield epochs whose training loss is not the mean over images of their steps' losses.

    How many images the last batch has is not recorded, but it is the same for all runs on the same images: it is the
    number that fits most runs.
    """
    alike: dict[str, list[RunRecord]] = {}
    for run in runs_of(report):
        # What has other numbers of steps is told by `check_lengths`.
        if run.epochs and _has_equal_epochs(run) and len(run.step_losses) >= run.epochs[-1].num_steps:
            images = run.config.dataset.model_dump(mode="json")
            alike.setdefault(json.dumps([images, run.config.train.batch_size]), []).append(run)
    for runs in alike.values():
        means = {run.run_id: _possible_means(run) for run in runs}
        fits = {run.run_id: _is_mean(run, means[run.run_id]) for run in runs}
        num_fitting = np.array([fit.all(axis=0) for fit in fits.values()]).sum(axis=0)
        most_likely = int(np.flatnonzero(num_fitting == num_fitting.max())[-1])
        for run in runs:
            for row, fit, mean in zip(run.epochs, fits[run.run_id], means[run.run_id], strict=True):
                if not fit[most_likely]:
                    yield (
                        f"{run.run_id}: the training loss of epoch {row.epoch} is {row.train_loss:.7g}; its steps give "
                        f"{mean[most_likely]:.7g}"
                    )


def _possible_means(run: RunRecord) -> NDArray[np.float64]:
    """Return each epoch's mean loss, ``(epochs, batch size)``, for 1, 2, ... images in its last batch."""
    batch_size = run.config.train.batch_size
    last_batch = np.arange(1, batch_size + 1)
    means, start = [], 0
    for row in run.epochs:
        losses = run.total_losses[start : row.num_steps]
        start = row.num_steps
        total = math.fsum(losses[:-1]) * batch_size + losses[-1] * last_batch
        means.append(total / ((len(losses) - 1) * batch_size + last_batch))
    return np.array(means)


def _is_mean(run: RunRecord, means: NDArray[np.float64]) -> NDArray[np.bool_]:
    recorded = np.array([row.train_loss for row in run.epochs])[:, None]
    is_mean: NDArray[np.bool_] = np.isclose(recorded, means, rtol=_LOSS_DIGITS, atol=0, equal_nan=True)
    return is_mean


def check_evaluations(report: Report) -> Iterator[str]:
    """Yield evaluations whose accuracy is another than that of the run's result, further than another device may be."""
    for run in runs_of(report):
        evaluation = run.evaluation
        if evaluation is None:
            continue
        if not run.is_completed:
            yield f"{run.run_id}: evaluated, though it is {run.status.state}"
        elif abs(evaluation.accuracy - run.summary.test_accuracy) > _EVALUATION_MARGIN:
            yield (
                f"{run.run_id}: test accuracy is {evaluation.accuracy:.4f} in its evaluation and "
                f"{run.summary.test_accuracy:.4f} in its result"
            )


def check_devices(report: Report) -> Iterator[str]:
    """Yield tables of runs that were not trained on the same device with the same software, and times of elsewhere."""
    for run in runs_of(report):
        device = run.environment.get("device")
        if device is not None and device != run.config.device:
            yield f"{run.run_id}: trained on {device}; its config says {run.config.device}"
    for section in report.sections:
        yield from (f"{run.run_id}: nothing recorded of where it ran" for run in section.runs if not run.environment)
        for key in section.task.environment_keys:
            values = {str(recorded(run, key)) for run in section.runs if run.environment}
            if len(values) > 1:
                yield f"one table of runs with different {key.replace('_', ' ')}: {', '.join(sorted(values))}"
    machines = {machine_of(run.environment) for run in runs_of(report)}
    for session in report.experiment.timing.sessions:
        if machine_of(session.environment) not in machines:
            named = ", ".join(str(session.environment.get(key)) for key in MACHINE_KEYS)
            yield f"timing.json: times of a machine that no run was trained on: {named}"


Rule = Callable[[Report], Iterator[str]]

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "records": check_records,
        "ended and readable": check_readable,
        "config hashes": check_run_ids,
        "equal seeds": check_seeds,
        "steps and epochs": check_lengths,
        "last epoch": check_results,
        "losses": check_epoch_losses,
        "evaluations": check_evaluations,
        "devices": check_devices,
    }
)
"""By what a person calls it."""
