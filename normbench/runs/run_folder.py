"""Writing the folder of a run that trains a classifier: config, status, epochs, steps, summary."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from normbench.config.schema import RunConfig
from normbench.runs.records import METRICS_FILE, STEPS_FILE, EpochRow
from normbench.runs.writer import WrittenFolder

_STEPS_HEADER = "step,loss\n"


class RunFolder(WrittenFolder):
    """One run's folder while it is written, between `acquire` and `release`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._num_steps = 0

    def begin(self, config: RunConfig, *, rows: Iterable[EpochRow] = (), losses: Iterable[float] = ()) -> None:
        """Write the config, the status, and what a run that goes on has done according to its checkpoint."""
        self.remove_left_overs()
        self.write_config(config)
        self.write(METRICS_FILE, "".join(map(_line_of_epoch, rows)))
        self._num_steps = 0
        self.write(STEPS_FILE, _STEPS_HEADER + self._lines_of_steps(losses))
        self.set_status("running")

    def append_steps(self, losses: Iterable[float]) -> None:
        """Append the losses of further steps, in nats."""
        self.append(STEPS_FILE, self._lines_of_steps(losses))

    def append_epoch(self, row: EpochRow) -> None:
        """Append an epoch's row."""
        self.append(METRICS_FILE, _line_of_epoch(row))

    def _lines_of_steps(self, losses: Iterable[float]) -> str:
        lines = [f"{self._num_steps + position},{loss:.7g}\n" for position, loss in enumerate(losses)]
        self._num_steps += len(lines)
        return "".join(lines)


def _line_of_epoch(row: EpochRow) -> str:
    return row.model_dump_json() + "\n"
