"""Functions for worker processes to run."""

import gc
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from normbench.errors import DataError, UnknownNameError
from normbench.runs.events import Pause, RunEvent
from normbench.worker import targets
from normbench.worker.targets import RunRequest


def count(stop: int) -> Iterator[int]:
    yield from range(stop)


def count_after_pauses(stop: int, fail_at: int, closed: Path) -> Iterator[int | Pause]:
    """Count, each number after a pause that is over when it is looked at for the second time; fail at one of them."""
    try:
        for number in range(stop):
            looks = iter((False, True))
            yield Pause(looks.__next__)
            if number == fail_at:
                raise DataError(f"no {number}")
            yield number
    finally:
        closed.touch()


def identity() -> tuple[int, str | None]:
    return os.getpid(), os.environ.get("NORMBENCH_TEST")


def import_wave() -> None:
    import wave  # noqa: F401


def import_nothing() -> None:
    import no.such.module  # noqa: F401


def keep_whether_garbage_is_searched_for() -> None:
    sys.searched_while_importing = gc.isenabled()  # type: ignore[attr-defined]


def searches_for_garbage() -> tuple[bool | None, bool]:
    """Whether Python looked for garbage while modules were imported ahead, and whether it does now."""
    return getattr(sys, "searched_while_importing", None), gc.isenabled()


def is_loaded(module: str) -> bool:
    return module in sys.modules


def complain() -> None:
    raise DataError("no data there")


def misspell() -> None:
    raise UnknownNameError("norm", "gnn", ("bn", "gn"))


def crash() -> Iterator[None]:
    yield from ()
    1 / 0  # noqa: B018


def return_unpicklable() -> object:
    return lambda: None


def yield_unpicklable() -> Iterator[object]:
    yield lambda: None


def break_the_device() -> None:
    targets.is_device_usable = lambda: False
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def leave(code: int) -> Iterator[int]:
    os._exit(code)
    yield 0


def forever(closed: Path) -> Iterator[int]:
    try:
        while True:
            yield 0
            time.sleep(0.01)
    finally:
        closed.touch()


def train_with_a_fault_on_the_gpu(request: RunRequest) -> Iterator[RunEvent]:
    """Train the run; where its norm is gn, read beyond the end of a tensor on the GPU after the first steps."""
    import torch

    from normbench.worker import train_run

    def fault(*_: object) -> dict[str, Any]:
        torch.zeros(1, device="cuda")[torch.tensor([10**9], device="cuda")].item()
        return {}

    if request.config.norm.name == "gn":
        train_run._how_steps_run = fault
    yield from targets.train_run(request)


def train_with_no_memory_left(request: RunRequest) -> Iterator[RunEvent]:
    """Train the run; where its norm is gn, in a process that may take no more of the GPU's memory than it has.

    The GPU itself is left to the other processes: to fill it would have their runs fail.
    """
    import torch

    if request.config.norm.name != "gn":
        yield from targets.train_run(request)
        return
    torch.cuda.empty_cache()
    limit_gpu_memory(torch.cuda.memory_reserved())
    try:
        yield from targets.train_run(request)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def limit_gpu_memory(num_bytes: int) -> None:
    """Let this process take no more of the GPU's memory."""
    import torch

    torch.cuda.set_per_process_memory_fraction(num_bytes / torch.cuda.get_device_properties(0).total_memory)
