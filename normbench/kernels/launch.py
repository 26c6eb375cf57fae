"""How kernels are launched; or, ahead of time, compiled and loaded without running."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Self

Jobs = dict[Hashable, Callable[[], None]]
"""What launches kernels, by all that decides which those are."""

_compiling_only: ContextVar[bool] = ContextVar("compiling_only", default=False)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: object, **settings: object) -> None:
    """Launch the Triton `kernel` with `grid` programs; under `compiling_only`, do all for it but that."""
    if not _compiling_only.get():
        kernel[grid](*arguments, **settings)
        return
    compiled = kernel.warmup(*arguments, grid=grid, **settings)
    if compiled is not None:  # as it is where kernels are interpreted
        _ = compiled.run  # loads it onto the device, and builds what launches it


@contextmanager
def compiling_only() -> Iterator[None]:
    """Let `launch`, in this thread, compile and load kernels without running them.

    Their tensors may then be on the CPU, where memory that nothing is written into takes none. (Not on the meta device:
    some of its operations import torch's compiler.) Of an argument Triton needs its dtype, what is constant at compile
    time, and whether a number or an address is a multiple of 16.
    """
    token = _compiling_only.set(True)
    try:
        yield
    finally:
        _compiling_only.reset(token)


class Compilation:
    """Compiles in the background, on all processor cores; leaving the ``with`` block waits for all of it.

    Triton would otherwise compile kernels one after another, when each is first launched. A job that fails is left to
    that launch, which says what is wrong where it can be told.
    """

    def __init__(self, *, max_workers: int | None = None) -> None:
        self._pool = ThreadPoolExecutor(max_workers or os.cpu_count())
        self._keys: set[Hashable] = set()

    def add(self, jobs: Jobs) -> None:
        """Start those of the jobs that are not equal to one before."""
        for key in jobs.keys() - self._keys:
            self._pool.submit(_compile, jobs[key])
        self._keys |= jobs.keys()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait; where an exception leaves the block, only for what is being compiled."""
        self._pool.shutdown(cancel_futures=kind is not None)


def _compile(job: Callable[[], None]) -> None:
    with compiling_only(), suppress(Exception):
        job()


def compile_all(jobs: Jobs, *, max_workers: int | None = None) -> None:
    """Compile at once, on `max_workers` or all processor cores, and wait for it; see `Compilation`."""
    with Compilation(max_workers=max_workers) as compilation:
        compilation.add(jobs)
