"""The training loop of every task: a generator of events, which its caller records, shows, or stops."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import torch
from torch import nn

from normbench.engine.augment import CropFlip
from normbench.engine.device import DeviceName, synchronize
from normbench.engine.evaluate import PendingEvaluation
from normbench.engine.memory import MemoryMeter, keep_freed_memory, return_freed_memory
from normbench.engine.probes.schedule import Probe, ProbeSchedule
from normbench.engine.step.base import TrainStep
from normbench.engine.step.prepare import prepare
from normbench.engine.turns import STEPS_PER_TURN, Turns
from normbench.errors import DivergedError
from normbench.runs.events import EpochDone, Pause, ProbeFailed, ProbeMeasured, StepsDone, TrainingDone, TrainingEvent
from normbench.runs.probe_files import ProbeRow
from normbench.tasks.task import EpochRow

STEPS_BETWEEN_REPORTS = 100
"""A report at least every 100 steps, as the tutorial prints its loss."""
_SECONDS_BETWEEN_REPORTS = 0.5


@dataclass(frozen=True)
class Totals:
    """The costs of a training, whatever its task."""

    num_steps: int
    num_parameters: int
    train_seconds: float
    """Time of the steps alone: no evaluation, compilation, capture or warm-up."""
    startup_seconds: float
    """From the start of building to the first timed step."""
    images_per_second: float
    peak_memory_mib: float | None


class Training(Protocol):
    """The part of a training that depends on its task: its step, its images, and what its result is."""

    step: TrainStep
    num_epochs: int

    def draw_epoch(self, epoch: int) -> tuple[torch.Tensor, CropFlip | None]:
        """Return which image each place of the epoch has, and how the images are augmented."""

    def warm_up(self) -> None:
        """Do once, before anything is measured, what only the first evaluation of a process needs."""

    def capture_evaluation(self) -> None:
        """Have evaluations replayed from a graph where they can be, after the steps are prepared."""

    def launch_evaluation(self) -> PendingEvaluation | None:
        """Start to evaluate the model after an epoch; None where epochs have no row."""

    def summarize(self, totals: Totals, rows: Sequence[EpochRow], losses: Sequence[tuple[float, ...]]) -> TrainingDone:
        """Return the result of the whole training."""

    def name_step(self, epoch: int, step: int) -> str:
        """Return how a message names a step."""

    def rate_of(self, step: int) -> float:
        """Return the learning rate of a step, counted from the start of training."""


class Trainer:
    """Trains one model; `run` yields events, `state_dict` and `load_state_dict` interrupt and continue it exactly.

    Order and augmentation are keyed by (seed, epoch), so that a resumed training draws what an uninterrupted one draws.

    Args:
        build: makes the training on the device; the time and memory that it takes are counted.
        device: where it trains.
        probes: what is measured during training beside the loss.
        clock: seconds from any origin.
    """

    def __init__(
        self,
        build: Callable[[], Training],
        device: DeviceName,
        *,
        probes: Sequence[Probe] = (),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._started = clock()
        self._clock = clock
        self.memory = MemoryMeter(device)
        keep_freed_memory(device)
        self._device: DeviceName = device
        self._turns = Turns(device)
        self._training = build()
        self.step = self._training.step
        # Where training stands; all of it goes into a checkpoint.
        self._rows: list[EpochRow] = []
        self._losses: list[tuple[float, ...]] = []
        self._step_in_epoch = 0
        self._num_correct = 0
        self._epoch_seconds = 0.0
        self._probes = ProbeSchedule(probes)

    @property
    def model(self) -> nn.Module:
        """The network in training."""
        return self.step.model

    @property
    def rows(self) -> tuple[EpochRow, ...]:
        """The epochs done."""
        return tuple(self._rows)

    @property
    def losses(self) -> tuple[tuple[float, ...], ...]:
        """The losses of all steps done, in the objective's columns."""
        return tuple(self._losses)

    @property
    def probe_rows(self) -> dict[str, tuple[ProbeRow, ...]]:
        """What each probe has measured."""
        return self._probes.rows

    def run(self) -> Generator[TrainingEvent, None, None]:
        """Train to the end, yielding events.

        The clock of `train_seconds` stands still while the caller handles them, and while probes measure.

        Raises:
            DivergedError: the loss of a step or of an evaluation is not finite; the steps up to it were yielded.
        """
        with closing(self._run()) as events:
            for event in events:
                if not isinstance(event, Pause):
                    yield event

    def run_in_turns(self) -> Generator[TrainingEvent | Pause, None, None]:
        """Train as `run` does, beside other trainings of the process, each going on while the others pause.

        The first pause is that before the first step, when all is prepared. The times of the events are those of the
        clock, the turns of others included; memory counts apart, from the first turn on (`MemoryMeter.suspend`).

        Raises:
            DivergedError: as `run` does.
        """
        self.memory.resume()
        with closing(self._run()) as events:
            for event in events:
                self.memory.suspend()
                yield event
                self.memory.resume()

    def _run(self) -> Generator[TrainingEvent | Pause, None, None]:
        self._training.warm_up()
        prepare(self.step)
        self._training.capture_evaluation()
        startup_seconds = self._clock() - self._started
        yield self._turns.pause_until_done()
        for epoch in range(len(self._rows), self._training.num_epochs):
            yield from self._train_epoch(epoch)
            row = yield from self._evaluate_epoch()
            if row is not None:
                self._finish_epoch(row)
                yield EpochDone(row)
        yield self._training.summarize(self._totals(startup_seconds), self._rows, self._losses)

    def _train_epoch(self, epoch: int) -> Iterator[StepsDone | ProbeMeasured | ProbeFailed | Pause]:
        step, num_steps = self.step, self.step.settings.steps_per_epoch
        began = self._clock()
        step.state.start_epoch(
            *self._training.draw_epoch(epoch),
            global_step=len(self._losses),
            step_in_epoch=self._step_in_epoch,
            num_correct=self._num_correct,
        )
        while self._step_in_epoch < num_steps:
            first = stop = self._step_in_epoch
            begin = len(self._losses) - first
            if self._probes.is_due(begin + first):
                seconds = self._clock() - began
                yield from self._probes.measure(step, begin + first, first, self._training.rate_of(begin + first))
                synchronize(self._device)
                began = self._clock() - seconds
            try:
                while stop < num_steps:
                    step(stop)
                    stop += 1
                    is_report = (stop - 1) % STEPS_BETWEEN_REPORTS == 0 or self._probes.is_due(begin + stop)
                    if is_report or self._clock() - began > _SECONDS_BETWEEN_REPORTS:
                        break
                    if (stop - first) % STEPS_PER_TURN == 0:
                        yield self._turns.pause()
                yield self._turns.pause_until_done()
            except GeneratorExit:  # the steps asked for are done all the same: a checkpoint has them, or they diverge
                report = self._report(epoch, first, *self._count(epoch, first, stop, began))
                next(report)
                report.close()
                raise
            yield from self._report(epoch, first, *self._count(epoch, first, stop, began))
            began = self._clock()

    def _count(self, epoch: int, first: int, stop: int, began: float) -> tuple[list[tuple[float, ...]], float]:
        """Count the epoch's steps ``first`` to ``stop - 1`` as done, and return their losses and seconds."""
        losses = self.step.losses(first, stop)  # waits for the device
        self._num_correct = self.step.num_correct()
        seconds = self._clock() - began
        self._epoch_seconds += seconds
        self._losses += losses
        self._step_in_epoch = stop
        return losses, seconds

    def _report(
        self, epoch: int, first: int, losses: list[tuple[float, ...]], seconds: float
    ) -> Generator[StepsDone, None, None]:
        """Yield the steps of `losses`; raise where one of them is not finite."""
        step, stop = self.step, first + len(losses)
        images = [step.batch_size_of(position) for position in range(first, stop)]
        diverged = next((i for i, (loss, *_) in enumerate(losses) if not math.isfinite(loss)), None)
        num_seen = min(stop * step.settings.batch_size, step.settings.num_images)
        try:
            yield StepsDone(
                epoch=epoch + 1,
                first_step=first,
                losses=tuple(losses if diverged is None else losses[: diverged + 1]),
                steps_per_epoch=step.settings.steps_per_epoch,
                train_accuracy=self._num_correct / num_seen if step.objective.has_accuracy else None,
                images_per_second=sum(images) / seconds,
            )
        finally:  # also where the caller stops here: there is nothing to go on from
            if diverged is not None:
                self._raise_diverged("loss", losses[diverged][0], epoch, first + diverged)

    def _raise_diverged(self, what: str, loss: float, epoch: int, step: int) -> NoReturn:
        """Raise `DivergedError` with the step and its learning rate, which is what can be changed."""
        where = self._training.name_step(epoch, step)
        position = epoch * self.step.settings.steps_per_epoch + step
        raise DivergedError(f"{what} is {loss} at {where}, learning rate {self._training.rate_of(position):.3g}")

    def _evaluate_epoch(self) -> Generator[Pause, None, EpochRow | None]:
        began = self._clock()
        return_freed_memory(self._device)  # an evaluation's batches do not fit into it: the process would hold both
        pending = self._training.launch_evaluation()
        keep_freed_memory(self._device)
        if pending is None:
            return None
        yield self._turns.pause_until_done()
        evaluation = pending.result()
        settings, epoch = self.step.settings, len(self._rows)
        if not math.isfinite(evaluation.loss):
            self._raise_diverged("test loss", evaluation.loss, epoch, settings.steps_per_epoch - 1)
        num_steps = (epoch + 1) * settings.steps_per_epoch
        return EpochRow(
            epoch=epoch + 1,
            num_steps=num_steps,
            train_loss=self._mean_loss(self._losses[-settings.steps_per_epoch :]),
            train_accuracy=self._num_correct / settings.num_images,
            test_loss=evaluation.loss,
            test_accuracy=evaluation.accuracy,
            train_seconds=self._epoch_seconds,
            test_seconds=self._clock() - began,
            learning_rate=self._training.rate_of(num_steps - 1),
        )

    def _mean_loss(self, losses: Sequence[tuple[float, ...]]) -> float:
        """Return the mean over images of an epoch's losses, rounded once: however the steps were read back."""
        images = map(self.step.batch_size_of, range(len(losses)))
        total = math.fsum(loss * count for (loss, *_), count in zip(losses, images, strict=True))
        return total / self.step.settings.num_images

    def _finish_epoch(self, row: EpochRow) -> None:
        self._rows.append(row)
        self._step_in_epoch, self._num_correct = 0, 0
        self._epoch_seconds = 0.0

    def _totals(self, startup_seconds: float) -> Totals:
        train_seconds = sum(row.train_seconds for row in self._rows) + self._epoch_seconds
        num_images = self._training.num_epochs * self.step.settings.num_images
        return Totals(
            num_steps=len(self._losses),
            num_parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            train_seconds=train_seconds,
            startup_seconds=startup_seconds,
            images_per_second=num_images / train_seconds,
            peak_memory_mib=self.memory.peak_mib(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs to go on from here: tensors, numbers, lists and dicts only."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.step.optimizer.state_dict(),
            "rows": [row.model_dump() for row in self._rows],
            "losses": torch.tensor(self._losses).reshape(-1, self.step.objective.num_losses),
            "step_in_epoch": self._step_in_epoch,
            "num_correct": self._num_correct,
            "epoch_seconds": self._epoch_seconds,
            **({"probes": self._probes.state_dict()} if self._probes.rows else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; call before `run`. A trainer for which that fails is of no further use.

        Raises:
            ValueError: no training of this config can have come to that state.
        """
        losses = state["losses"]
        num_losses = self.step.objective.num_losses
        if losses.ndim == 1 and num_losses == 1:
            losses = losses[:, None]  # of before losses had columns
        if "rows" not in state:  # a style-transfer run's of before it shared this loop
            done = {"rows": [], "step_in_epoch": len(losses), "num_correct": 0}
            state = {**state, **done, "epoch_seconds": state["seconds"]}
        rows = [EpochRow.model_validate(row) for row in state["rows"]]
        self._check_progress(state, rows, losses)
        self._probes.load_state_dict(state.get("probes", {}), len(losses))
        self.model.load_state_dict(state["model"])
        self.step.optimizer.load_state_dict(state["optimizer"])
        self._losses = [tuple(row) for row in losses.tolist()]
        self._rows = rows
        self._step_in_epoch = state["step_in_epoch"]
        self._num_correct = state["num_correct"]
        self._epoch_seconds = state["epoch_seconds"]

    def _check_progress(self, state: dict[str, Any], rows: Sequence[EpochRow], losses: torch.Tensor) -> None:
        """Raise `ValueError` where numbers of a checkpoint contradict each other or the training."""
        settings, step_in_epoch = self.step.settings, state["step_in_epoch"]
        num_seen = min(step_in_epoch * settings.batch_size, settings.num_images)
        groups = state["optimizer"].get("param_groups", ())  # torch's optimizers have them
        has_memory = any("betas" in group or group.get("momentum") for group in groups)
        plausible = {
            "losses": losses.ndim == 2
            and losses.shape[1] == self.step.objective.num_losses
            and len(losses) == len(rows) * settings.steps_per_epoch + step_in_epoch
            and bool(losses[:, 0].isfinite().all()),
            "rows": len(rows) <= self._training.num_epochs
            and all((row.epoch, row.num_steps) == (i, i * settings.steps_per_epoch) for i, row in enumerate(rows, 1)),
            "step_in_epoch": 0 <= step_in_epoch <= settings.steps_per_epoch,
            "num_correct": 0 <= state["num_correct"] <= num_seen,
            "epoch_seconds": 0 <= state["epoch_seconds"] < math.inf,
            "optimizer": bool(state["optimizer"]["state"]) or not (has_memory and len(losses)),
        }
        if wrong := [name for name, is_plausible in plausible.items() if not is_plausible]:
            raise ValueError(f"impossible {', '.join(wrong)}")
