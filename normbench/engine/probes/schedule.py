"""Which probes measure when, and what they have measured: the part of probes that a training loop knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch

from normbench.config.probes import ProbesConfig
from normbench.engine.device import DeviceName, full_precision, is_beside_others, is_out_of_memory
from normbench.engine.probes.curvature import CurvatureProbe
from normbench.engine.probes.landscape import LandscapeProbe
from normbench.engine.probes.moment import Moment, moment_of
from normbench.engine.probes.signals import SignalsProbe
from normbench.engine.step.base import TrainStep
from normbench.errors import first_line
from normbench.kernels.support import switched_off
from normbench.runs.events import ProbeFailed, ProbeMeasured
from normbench.runs.probe_files import ROWS, ProbeRow


class Probe(Protocol):
    """One kind of measurement."""

    name: str
    """A key of `runs.probe_files.ROWS`."""
    every: int
    """Steps from one measurement to the next."""

    def measure(self, moment: Moment) -> ProbeRow:
        """Return what is measured; `moment` may be changed."""


def build_probes(config: ProbesConfig | None) -> list[Probe]:
    """Return the probes that a config asks for."""
    probes: list[Probe] = []
    if config is None:
        return probes
    if (landscape := config.landscape) is not None:
        probes.append(LandscapeProbe(landscape.every, landscape.step_sizes))
    if (signals := config.signals) is not None:
        probes.append(SignalsProbe(signals.every, signals.samples))
    if (curvature := config.curvature) is not None:
        probes.append(CurvatureProbe(curvature.every, curvature.iterations, curvature.tolerance))
    return probes


class ProbeSchedule:
    """The probes of one training: each measures before step 0, `every`, 2 `every`, ... and at no step twice."""

    def __init__(self, probes: Sequence[Probe] = ()) -> None:
        self._probes = tuple(probes)
        self._rows: dict[str, list[ProbeRow]] = {probe.name: [] for probe in probes}
        self._failed: set[str] = set()

    @property
    def rows(self) -> dict[str, tuple[ProbeRow, ...]]:
        """What each probe has measured; an entry for every probe."""
        return {name: tuple(rows) for name, rows in self._rows.items()}

    def is_due(self, step: int) -> bool:
        """Return whether a probe is to measure before `step`, counted from the start of training."""
        return any(self._is_due(probe, step) for probe in self._probes)

    def _is_due(self, probe: Probe, step: int) -> bool:
        rows = self._rows[probe.name]
        is_done = bool(rows) and rows[-1].step >= step
        return step % probe.every == 0 and not is_done and probe.name not in self._failed

    def measure(
        self, train_step: TrainStep, step: int, step_in_epoch: int, rate: float
    ) -> Iterator[ProbeMeasured | ProbeFailed]:
        """Measure what is due before `step`, and yield it; one that cannot measure this network is not asked again.

        Weights, optimizer, random numbers and arithmetic of the training stay as they are.
        """
        for probe in self._probes:
            if not self._is_due(probe, step):
                continue
            try:
                row = _measure(probe, train_step, step, step_in_epoch, rate)
            except (RuntimeError, ValueError) as error:  # not differentiable twice, or out of memory, say
                if is_out_of_memory(error) and is_beside_others(train_step.settings.device):
                    raise  # alone there may be enough
                self._failed.add(probe.name)
                yield ProbeFailed(probe.name, first_line(error))
                continue
            self._rows[probe.name].append(row)
            yield ProbeMeasured(probe.name, row)

    def state_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Return the rows for a checkpoint."""
        return {name: [row.model_dump() for row in rows] for name, rows in self._rows.items()}

    def load_state_dict(self, state: Mapping[str, Sequence[Mapping[str, Any]]], num_steps: int) -> None:
        """Take over the rows of a training that has done `num_steps`.

        Raises:
            ValueError: no training of this config can have measured them.
        """
        if state.keys() != self._rows.keys():
            raise ValueError("it has other probes")
        for probe in self._probes:
            rows = [ROWS[probe.name].model_validate(row) for row in state[probe.name]]
            steps = [row.step for row in rows]
            if steps != sorted(set(steps)) or any(step % probe.every or step > num_steps for step in steps):
                raise ValueError(f"impossible steps of the probe {probe.name}")
            self._rows[probe.name] = rows


def _measure(probe: Probe, train_step: TrainStep, step: int, step_in_epoch: int, rate: float) -> ProbeRow:
    """Measure in float32 and by torch's own operations, whatever the training's precision and kernels are."""
    device: DeviceName = train_step.settings.device
    gpus = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(gpus), full_precision(device), switched_off():
        return probe.measure(moment_of(train_step, step, step_in_epoch, rate))
