"""The command line in this process: fast, and exact about what goes to which stream."""

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from local_worker import LocalWorker

from normbench.cli import main


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def normbench(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[..., Result]]:
    """Call the program in `tmp_path`; runs train in this process instead of a worker's."""
    for variable in ("COLUMNS", "NORMBENCH_DATA_DIR", "NORMBENCH_RUNS_DIR", "FORCE_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("normbench.cli.running.Worker", LocalWorker)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # Typer replaces it
    monkeypatch.chdir(tmp_path)
    sigterm = signal.getsignal(signal.SIGTERM)

    def call(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["normbench", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Result(ended.value.code or 0, *capsys.readouterr())

    yield call
    signal.signal(signal.SIGTERM, sigterm)


@pytest.fixture
def quick(normbench: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The same, but for the reports on disk, which take seconds to draw."""
    monkeypatch.setattr("normbench.report.write_report", lambda _: [])
    monkeypatch.setattr("normbench.report.write_run_report", lambda _: [])
    return normbench
