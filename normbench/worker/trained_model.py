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
from normbench.runs.writer import own_code
from normbench.worker.own import with_code


def load_model(run: Path | str | Mapping[str, Any], *, trust_code: bool = False) -> nn.Module:
    """Return the network that a run trained, on the CPU and in evaluation mode.

    `run` is a run's folder, or its row of `load_runs`. A classifier is there if the run kept its checkpoint
    (``keep_checkpoint=True``, ``--keep-checkpoint``); style transfer always keeps its network.

        rows = normbench.compare("tutorial", keep_checkpoint=True).rows()
        net = normbench.load_model(rows[0])

    A run with a norm or a network of a user's own has its file beside it. That file is executed only with `trust_code`:
    say so of runs of your own, or of a file that you have read.

    Raises:
        RunError: the run cannot be read, is not completed, or kept no network; or it has code that is not trusted.
        NormBenchError: the file of its network is damaged.
    """
    record = read_run(run_folder(run))
    if not record.is_completed:
        raise RunError(f"{record.folder}: no trained network there: the run is {record.status.state}")
    config = with_own_code(record.config, record.folder, trust_code=trust_code)
    network: nn.Module = load(record.task.trainer).load_model(config, record.folder)
    return network.eval()


def with_own_code(config: Any, folder: Path, *, trust_code: bool) -> Any:
    """Return a run's config with the text of its own code, if it has any.

    Raises:
        RunError: it has code that is not trusted, or that is missing or has changed.
    """
    codes = own_code(config)
    if codes and not trust_code:
        files = " and ".join(str(folder / code.file) for code in codes)
        raise RunError(f"{folder}: its network is code of its own: read {files}, then give trust_code=True")
    return with_code(config, folder) if codes else config
