"""The trained network of a recorded run, of any task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from normbench.errors import RunError
from normbench.registry import load
from normbench.report.recorded_runs import run_folder
from normbench.runs.records import read_run


def load_model(run: Path | str | Mapping[str, Any]) -> nn.Module:
    """Return the network that a run trained, on the CPU and in evaluation mode.

    `run` is a run's folder, or its row of `load_runs`. A classifier is there if the run kept its checkpoint
    (``keep_checkpoint=True``, ``--keep-checkpoint``); style transfer always keeps its network.

        rows = normbench.compare("tutorial", keep_checkpoint=True).rows()
        net = normbench.load_model(rows[0])

    Raises:
        RunError: the run cannot be read, is not completed, or kept no network.
        NormBenchError: the file of its network is damaged.
    """
    record = read_run(run_folder(run))
    if not record.is_completed:
        raise RunError(f"{record.folder}: no trained network there: the run is {record.status.state}")
    network: nn.Module = load(record.task.trainer).load_model(record.config, record.folder)
    return network.eval()
