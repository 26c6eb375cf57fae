"""Shows an experiment's progress on stderr: live on a terminal, a line every 100 steps anywhere else."""

from __future__ import annotations

import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from normbench.experiment.plan import RunPlan
from normbench.experiment.runner import (
    ExperimentEvent,
    RunBusy,
    RunEnded,
    RunMoved,
    RunPostponed,
    RunProgressed,
    RunStarted,
    RunUnreadable,
    Stopping,
)
from normbench.experiment.timing_pass import TimingEnded, TimingEvent, TimingProgressed, TimingStarted
from normbench.runs.events import CheckpointFailed, EpochDone, FactsLearned, ProbeFailed, StepsDone
from normbench.tasks import TASKS

_STEPS_BETWEEN_LINES = 100
_WIDE = 100
"""Columns from which on the live display shows labels in full, and the test accuracy of the epoch before."""
_NARROW_LABEL = 16
_SECONDS_BETWEEN_REFRESHES = 0.05
"""At least, while steps come in: those of several runs at once come faster than anybody can read."""
_TIMING = "timing"
"""Among the tasks, where runs are called by their ids."""


def stopping(event: Stopping) -> str:
    """Say in a line what happens to the runs that are going."""
    if event.num_failed:
        return f"stopping after {event.num_failed} failed: running runs end their step and save a checkpoint"
    return "stopping: running runs end their step and save a checkpoint; again to stop at once"


def note(text: str) -> None:
    """Print a line of information to stderr, if there is still somebody to read it."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class Progress(ABC):
    """Shows events; a context manager, because a live display must be closed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        return None

    @abstractmethod
    def __call__(self, event: ExperimentEvent | TimingEvent) -> None:
        """Show what `event` says."""


def make_progress(plans: Sequence[RunPlan]) -> Progress:
    """Return the display that fits where stderr goes: a terminal, a notebook with widgets, or anything else."""
    console = Console(stderr=True)
    is_live = console.is_terminal and not console.is_dumb_terminal
    if console.is_jupyter:
        is_live = find_spec("ipywidgets") is not None  # rich shows nothing without them
    return LiveProgress(plans, console) if is_live else LineProgress(plans)


def name_of(plan: RunPlan) -> str:
    """Return how a run is called on screen."""
    point = f" ({plan.point})" if plan.point else ""
    return f"{plan.config.label}{point} seed {plan.config.seed}"


def ending(event: RunEnded | RunMoved | RunBusy | RunUnreadable) -> str:
    """Say in a line how a run ended, or moves, or why it is not trained."""
    if isinstance(event, RunMoved):
        return f"{name_of(event.plan)}: goes on elsewhere: {event.reason}"
    if isinstance(event, RunBusy):
        return f"{name_of(event.plan)}: another process is training it; left to that"
    if isinstance(event, RunUnreadable):
        return f"{name_of(event.plan)}: kept as it is, but it cannot be read: {event.problem}; --retry trains it again"
    name, state = name_of(event.plan), event.status.state
    if event.summary is not None:
        result = TASKS[event.plan.config.task].result(event.summary)
        if event.skipped:
            return f"{name}: completed before, kept ({result})"
        beside = f" beside up to {event.runs_at_once - 1} others" if event.runs_at_once > 1 else ""
        return f"{name}: {result}, {event.summary.train_seconds:.1f} s training{beside}"
    hint = "; --retry runs it again" if event.skipped and state in ("failed", "diverged") else ""
    return f"{name}: {state}: {event.status.reason}{hint}"


def postponed(event: RunPostponed) -> str:
    """Say in a line that a run begins again beside fewer others, and why."""
    beside = "alone" if event.runs_at_once == 1 else f"with {event.runs_at_once} runs at once"
    return f"{name_of(event.plan)}: goes on {beside}: {event.reason}"


def shortcoming(event: FactsLearned | ProbeFailed | CheckpointFailed) -> str | None:
    """Say in a line what a run does without, if anything."""
    if isinstance(event, FactsLearned):
        reason = event.facts.get("engine_fallback")
        return f"steps run eagerly: {reason}" if reason else None
    if isinstance(event, ProbeFailed):
        return f"training goes on without the probe {event.name}: {event.reason}"
    return f"training goes on without a checkpoint: {event.reason}"


def has_epochs(plan: RunPlan) -> bool:
    """Return whether the run is trained in epochs, and not only in steps."""
    return bool(TASKS[plan.config.task].has_epochs)


def step_lines(plan: RunPlan, steps: StepsDone) -> list[str]:
    """Return a line for every hundredth step: ``Epoch 1/5 | Batch 0/782 | Loss: 2.3121``."""
    task = TASKS[plan.config.task]
    return [
        task.progress.format(
            epoch=steps.epoch,
            length=plan.config.length,
            step=step,
            steps_per_epoch=steps.steps_per_epoch,
            **dict(zip(task.loss_columns, losses, strict=True)),
        )
        for step, losses in enumerate(steps.losses, steps.first_step)
        if step % _STEPS_BETWEEN_LINES == 0
    ]


def _norms(count: int) -> str:
    return "the norm alone" if count == 1 else f"{count} norms against each other"


def untimed(event: TimingEnded) -> str:
    """Say in a line that norms are not timed against each other, and why."""
    return (
        f"not all norms were timed against each other, tables take times from runs that trained alone: {event.problem}"
    )


class LineProgress(Progress):
    """Lines for logs: ``GN Epoch 1/5 | Batch 0/782 | Loss: 2.3121``."""

    def __init__(self, plans: Sequence[RunPlan]) -> None:
        self._needs_seed = len({(plan.config.seed, plan.point) for plan in plans}) > 1

    def __call__(self, event: ExperimentEvent | TimingEvent) -> None:
        """Print what `event` says, if it is a line's worth."""
        if isinstance(event, Stopping):
            note(stopping(event))
        elif isinstance(event, RunEnded | RunMoved | RunBusy | RunUnreadable):
            note(ending(event))
        elif isinstance(event, RunPostponed):
            note(postponed(event))
        elif isinstance(event, RunProgressed):
            self._progress(event)
        elif isinstance(event, TimingStarted):
            note(f"timing the steps of {_norms(event.num_norms)}")
        elif isinstance(event, TimingEnded):
            if event.problem:
                note(untimed(event))
        elif isinstance(event, RunStarted):
            for problem in event.problems:
                note(f"normbench: left out: {problem}")
            if event.num_epochs or event.num_steps:
                done = f"epoch {event.num_epochs}" if event.num_epochs else f"step {event.num_steps}"
                note(f"{name_of(event.plan)}: goes on after {done}")

    def _progress(self, event: RunProgressed) -> None:
        name = name_of(event.plan) if self._needs_seed else event.plan.config.label
        if isinstance(event.event, StepsDone):
            for line in step_lines(event.plan, event.event):
                note(f"{name} {line}")
        elif isinstance(event.event, EpochDone):
            row, num_epochs = event.event.row, event.plan.config.length
            note(
                f"{name} Epoch {row.epoch}/{num_epochs} | Test accuracy: {100 * row.test_accuracy:.2f} % | "
                f"Test loss: {row.test_loss:.4f} | {row.train_seconds:.2f} s"
            )
        elif text := shortcoming(event.event):
            note(f"{name}: {text}")


class LiveProgress(Progress):
    """A bar for all runs and one for each that is running, with loss, accuracy, images per second and the time left."""

    def __init__(self, plans: Sequence[RunPlan], console: Console) -> None:
        self._console = console
        self._is_wide = console.width >= _WIDE
        columns = ["progress", "loss", "train", *(["test"] if self._is_wide else []), "rate"]
        self._progress = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            *(TextColumn(f"{{task.fields[{column}]}}", markup=False) for column in columns),
            TimeRemainingColumn(compact=True),
            console=console,
            expand=True,
            transient=True,
            auto_refresh=False,  # each event redraws; a thread that redraws, too, can tear what is printed
        )
        self._num_runs = len(plans)
        self._num_ended = 0
        self._refreshed_at = -math.inf
        self._all = self._add("all runs", total=self._num_runs, progress=f"0/{self._num_runs} runs")
        self._tasks: dict[str, TaskID] = {}
        self._share: dict[str, float] = {}
        """Of each running run that is done."""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._progress.stop()

    def __call__(self, event: ExperimentEvent | TimingEvent) -> None:
        """Update the display, if the terminal is still there."""
        with suppress(OSError):
            self._show(event)
            is_steps = isinstance(event, RunProgressed) and isinstance(event.event, StepsDone)
            if not is_steps or time.monotonic() - self._refreshed_at > _SECONDS_BETWEEN_REFRESHES:
                self._progress.refresh()
                self._refreshed_at = time.monotonic()

    def _show(self, event: ExperimentEvent | TimingEvent) -> None:
        if isinstance(event, Stopping):
            self._print(stopping(event), "yellow")
        elif isinstance(event, RunBusy | RunMoved):
            self._forget(event.plan)
            self._print(ending(event), "yellow")
        elif isinstance(event, RunEnded | RunUnreadable):
            self._end(event)
        elif isinstance(event, RunPostponed):
            self._forget(event.plan)
            self._print(postponed(event), "yellow")
        elif isinstance(event, TimingStarted | TimingProgressed | TimingEnded):
            self._show_timing(event)
        elif isinstance(event, RunStarted):
            for problem in event.problems:
                self._print(f"left out: {problem}", "yellow")
            label = event.plan.config.label
            if not self._is_wide and len(label) > _NARROW_LABEL:
                label = f"{label[: _NARROW_LABEL - 1]}…"
            point = f" ({event.plan.point})" if event.plan.point and self._is_wide else ""
            name = f"{label}{point} seed {event.plan.config.seed}"
            task = self._add(name, total=1, completed=0, progress="preparing")
            self._tasks[event.plan.run_id] = task
        elif isinstance(event.event, StepsDone):
            self._show_steps(event.plan, event.event)
        elif isinstance(event.event, EpochDone):
            test = f"test {100 * event.event.row.test_accuracy:.1f} %"
            self._progress.update(self._tasks[event.plan.run_id], test=test)
        elif text := shortcoming(event.event):
            self._print(f"{name_of(event.plan)}: {text}", "yellow")

    def _add(self, name: str, *, total: int, progress: str, completed: int = 0) -> TaskID:
        return self._progress.add_task(
            name, total=total, completed=completed, progress=progress, loss="", train="", test="", rate=""
        )

    def _show_steps(self, plan: RunPlan, steps: StepsDone) -> None:
        num_steps = steps.first_step + len(steps.losses)
        share = num_steps / steps.steps_per_epoch
        where = f"step {num_steps}/{steps.steps_per_epoch}"
        if has_epochs(plan):
            share = (steps.epoch - 1 + share) / plan.config.length
            where = f"epoch {steps.epoch}/{plan.config.length}"
        self._progress.update(
            self._tasks[plan.run_id],
            completed=share,
            progress=where,
            loss=f"loss {steps.losses[-1][0]:.4f}",
            train="" if steps.train_accuracy is None else f"train {100 * steps.train_accuracy:.1f} %",
            rate=f"{steps.images_per_second:,.0f} img/s",
        )
        self._share[plan.run_id] = share
        self._progress.update(self._all, completed=self._num_ended + sum(self._share.values()))

    def _show_timing(self, event: TimingEvent) -> None:
        if isinstance(event, TimingStarted):
            self._tasks[_TIMING] = self._add(
                f"timing {event.num_norms} norm{'s' * (event.num_norms > 1)}", total=1, progress="in turn"
            )
        elif isinstance(event, TimingProgressed):
            self._progress.update(self._tasks[_TIMING], completed=event.share)
        else:
            if (task := self._tasks.pop(_TIMING, None)) is not None:
                self._progress.remove_task(task)
            if event.problem:
                self._print(untimed(event), "yellow")

    def _end(self, event: RunEnded | RunUnreadable) -> None:
        self._forget(event.plan)
        self._num_ended += 1
        completed = isinstance(event, RunEnded) and event.status.state == "completed"
        style = ("dim" if event.skipped else "green") if completed and isinstance(event, RunEnded) else "red"
        self._print(ending(event), style)
        self._progress.update(
            self._all,
            completed=self._num_ended + sum(self._share.values()),
            progress=f"{self._num_ended}/{self._num_runs} runs",
        )

    def _forget(self, plan: RunPlan) -> None:
        """Take the bar of a run away."""
        if (task := self._tasks.pop(plan.run_id, None)) is not None:
            self._progress.remove_task(task)
        self._share.pop(plan.run_id, None)

    def _print(self, text: str, style: str) -> None:
        self._progress.console.print(Text(text, style=style))
