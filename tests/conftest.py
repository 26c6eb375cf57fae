"""What all tests share: how Triton is imported, and the command line in this process."""

import gc
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

# One thread, because threads that wait for each other cost tiny nets more than they give.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Without AMX, so that `auto` and the losses compared are the same on every processor.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

import pytest
import torch
from local_worker import LocalWorker

from normbench.cli import main
from normbench.engine.device import set_default_arithmetic
from normbench.experiment.interrupts import SIGNALS
from normbench.experiment.timing_pass import MIN_ROUNDS

if importlib.util.find_spec("triton") is not None and not torch.cuda.is_available():
    # Without a GPU, tests/kernels interprets the kernels on the CPU. Triton decides that when it and the kernels are
    # first imported, so before any test; afterwards the rest of the process must not see the variable, because with it
    # every layer on the CPU would take the interpreted kernels.
    os.environ["TRITON_INTERPRET"] = "1"
    import normbench.triton_code.conv_kernels
    import normbench.triton_code.group_kernels
    import normbench.triton_code.image_conv_kernels
    import normbench.triton_code.moments_kernels
    import normbench.triton_code.pixel_affine_kernels
    import normbench.triton_code.pool_linear_kernels
    import normbench.triton_code.position_kernels
    import normbench.triton_code.squashing_kernels
    import normbench.triton_code.standardization_kernels
    import normbench.triton_code.train_step_kernels
    import normbench.triton_code.window_kernels

    del os.environ["TRITON_INTERPRET"]

    from quick_interpreter import compute_no_unused_checks, patch_language_once

    patch_language_once()
    compute_no_unused_checks()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, by name, what needs a GPU or the real images where there are none."""
    missing = {}
    if not torch.cuda.is_available():
        missing["gpu"] = pytest.mark.skip(reason="needs a CUDA device")
    if torch.cuda.device_count() < 2:
        missing["two_gpus"] = pytest.mark.skip(reason="needs two CUDA devices")
    if "NORMBENCH_DATA_DIR" not in os.environ:
        missing["data"] = pytest.mark.skip(reason="needs CIFAR-10: set NORMBENCH_DATA_DIR")
    for item in items:
        for name, skip in missing.items():
            if item.get_closest_marker(name):
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def _arithmetic() -> Iterator[None]:
    """Undo what a run in this process has set of CUDA's arithmetic."""
    yield
    if torch.cuda.is_available():
        set_default_arithmetic("cuda")


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> None:
    """Take what is imported by now out of each search for garbage: every training begins with one."""
    gc.collect()
    gc.freeze()


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
    monkeypatch.setattr("normbench.experiment.worker_process.Worker", LocalWorker)
    monkeypatch.setattr("normbench.experiment.timing_pass._BLOCK_SECONDS", 0.0)  # single steps, in as few
    monkeypatch.setattr("normbench.experiment.timing_pass.MAX_ROUNDS", MIN_ROUNDS)  # rounds as there may be
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # Typer replaces it
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}

    def call(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["normbench", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Result(ended.value.code or 0, *capsys.readouterr())

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)
