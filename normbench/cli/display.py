"""Progress of an experiment: a live display on a terminal, a line every 100 batches anywhere else. All on stderr."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from normbench.cli.console import note
from normbench.engine.events import EngineFellBack, EpochDone, StepsDone
from normbench.experiment.plan import RunPlan
from normbench.experiment.run import ExperimentEvent, RunEnded, RunProgressed, RunStarted

_STEPS_BETWEEN_LINES = 100


class Display(Protocol):
    """Shows events; a context manager, because a live display must be closed."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    def __call__(self, event: ExperimentEvent) -> None: ...


def make_display(plans: Sequence[RunPlan]) -> Display:
    """Return the display that fits where stderr goes."""
    console = Console(stderr=True)
    return LiveDisplay(plans, console) if console.is_terminal and not console.is_dumb_terminal else LineDisplay(plans)


def name_of(plan: RunPlan) -> str:
    """Return how a run is called on screen."""
    return f"{plan.config.label} seed {plan.config.seed}"


def ending(event: RunEnded) -> str:
    """Say in a line how a run ended."""
    name, state = name_of(event.plan), event.status.state
    if event.summary is not None:
        accuracy = f"test accuracy {100 * event.summary.test_accuracy:.2f} %"
        if event.skipped:
            return f"{name}: completed before, kept ({accuracy})"
        return f"{name}: {accuracy}, {event.summary.train_seconds:.1f} s training"
    hint = "; --retry runs it again" if event.skipped and state in ("failed", "diverged") else ""
    return f"{name}: {state}: {event.status.reason}{hint}"


class LineDisplay:
    """Lines for logs: ``GN Epoch 1/5 | Batch 0/782 | Loss: 2.3121``."""

    def __init__(self, plans: Sequence[RunPlan]) -> None:
        self._plans = plans
        self._several_seeds = len({plan.config.seed for plan in plans}) > 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __call__(self, event: ExperimentEvent) -> None:
        """Print what `event` says, if it is a line's worth."""
        name = name_of(event.plan) if self._several_seeds else event.plan.config.label
        if isinstance(event, RunEnded):
            note(ending(event))
        elif isinstance(event, RunStarted):
            if event.num_epochs:
                note(f"{name}: goes on after epoch {event.num_epochs}")
        elif isinstance(event.event, StepsDone):
            steps = event.event
            for step, loss in enumerate(steps.losses, steps.first_step):
                if step % _STEPS_BETWEEN_LINES == 0:
                    epochs = event.plan.config.train.epochs
                    note(
                        f"{name} Epoch {steps.epoch}/{epochs} | Batch {step}/{steps.steps_per_epoch} | Loss: {loss:.4f}"
                    )
        elif isinstance(event.event, EpochDone):
            row = event.event.row
            epochs = event.plan.config.train.epochs
            note(
                f"{name} Epoch {row.epoch}/{epochs} | Test accuracy: {100 * row.test_accuracy:.2f} % | "
                f"Test loss: {row.test_loss:.4f} | {row.train_seconds:.2f} s"
            )
        elif isinstance(event.event, EngineFellBack):
            note(f"{name}: steps run eagerly: {event.event.reason}")


class LiveDisplay:
    """A bar a running run, and one for all, with loss, accuracy, images per second and the time left."""

    def __init__(self, plans: Sequence[RunPlan], console: Console) -> None:
        self._console = console
        self._overall = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(bar_width=30), TextColumn("{task.fields[runs]}"),
            TimeRemainingColumn(elapsed_when_finished=True), console=console,
        )  # fmt: skip
        self._runs = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[state]}"),
            console=console,
        )
        self._live = Live(Group(self._runs, self._overall), console=console, refresh_per_second=8)
        self._num_runs = len(plans)
        self._num_ended = 0
        self._total = self._overall.add_task("all runs", total=float(self._num_runs), runs=f"0/{self._num_runs}")
        self._tasks: dict[str, TaskID] = {}
        self._share: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, traceback)

    def __call__(self, event: ExperimentEvent) -> None:
        """Update the display."""
        run_id = event.plan.run_id
        if isinstance(event, RunEnded):
            self._end(event)
        elif isinstance(event, RunStarted):
            self._tasks[run_id] = self._runs.add_task(
                name_of(event.plan), total=float(event.plan.config.train.epochs), state="preparing"
            )
        elif isinstance(event.event, StepsDone):
            self._progress(run_id, event, event.event)
        elif isinstance(event.event, EngineFellBack):
            self._live.console.print(
                Text(f"{name_of(event.plan)}: steps run eagerly: {event.event.reason}", style="yellow")
            )

    def _progress(self, run_id: str, event: RunProgressed, steps: StepsDone) -> None:
        epochs = event.plan.config.train.epochs
        done = steps.epoch - 1 + (steps.first_step + len(steps.losses)) / steps.steps_per_epoch
        state = (
            f"epoch {steps.epoch}/{epochs}  loss {steps.losses[-1]:.4f}  "
            f"train accuracy {100 * steps.train_accuracy:5.2f} %  {steps.images_per_second:,.0f} images/s"
        )
        self._runs.update(self._tasks[run_id], completed=done, state=state)
        self._share[run_id] = done / epochs
        self._overall.update(self._total, completed=self._num_ended + sum(self._share.values()))

    def _end(self, event: RunEnded) -> None:
        if (task := self._tasks.pop(event.plan.run_id, None)) is not None:
            self._runs.remove_task(task)
        self._share.pop(event.plan.run_id, None)
        self._num_ended += 1
        style = "dim" if event.skipped else "green" if event.summary is not None else "red"
        self._live.console.print(Text(ending(event), style=style))
        self._overall.update(
            self._total,
            completed=self._num_ended + sum(self._share.values()),
            runs=f"{self._num_ended}/{self._num_runs}",
        )
