"""How kernels are launched; or, ahead of time, compiled and loaded without running."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Self

from torch import Tensor

Jobs = dict[Hashable, Callable[[], None]]
"""What launches kernels, by all that decides which those are."""

_compiled: ContextVar[set[Hashable] | None] = ContextVar("compiled", default=None)
"""Where launches are only compiled: what has been, or is being. None where they are launched."""


def launch(kernel: Any, grid: tuple[int, ...], *arguments: object, **settings: object) -> None:
    """Launch the Triton `kernel` with `grid` programs; in a job of a `Compilation`, do all for it but that."""
    compiled = _compiled.get()
    if compiled is None:
        kernel[grid](*arguments, **settings)
        return
    facts = (id(kernel), *map(_fact, arguments), *settings.items())
    if facts not in compiled:
        compiled.add(facts)
        ready = kernel.warmup(*arguments, grid=grid, **settings)
        if ready is not None:  # as it is where kernels are interpreted
            _ = ready.run  # loads it onto the device, and builds what launches it


def _fact(argument: object) -> Hashable:
    """Return what Triton compiles for, of an argument that is not constant at compile time; or more than that."""
    if isinstance(argument, Tensor):
        return argument.dtype, argument.data_ptr() % 16 == 0
    if isinstance(argument, int):
        return argument == 1, argument % 16 == 0, argument.bit_length() > 31
    return type(argument).__name__


class Compilation:
    """Compiles in the background, on all processor cores; leaving the ``with`` block waits for all of it.

    Triton would otherwise compile kernels one after another, when each is first launched. A job that fails is left to
    that launch, which says what is wrong where it can be told.

    The jobs' tensors may be on the CPU, where memory that nothing is written into takes none. (Not on the meta device:
    some of its operations import torch's compiler.)
    """

    def __init__(self, *, max_workers: int | None = None) -> None:
        self._pool = ThreadPoolExecutor(max_workers or os.cpu_count())
        self._keys: set[Hashable] = set()
        self._compiled: set[Hashable] = set()

    def add(self, jobs: Jobs) -> None:
        """Start those of the jobs that are not equal to one before."""
        for key in jobs.keys() - self._keys:
            self._pool.submit(self._run, jobs[key])
        self._keys |= jobs.keys()

    def _run(self, job: Callable[[], None]) -> None:
        token = _compiled.set(self._compiled)
        with suppress(Exception):
            job()
        _compiled.reset(token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait; where an exception leaves the block, only for what is being compiled."""
        self._pool.shutdown(cancel_futures=kind is not None)


def compile_all(jobs: Jobs, *, max_workers: int | None = None) -> None:
    """Compile at once, on `max_workers` or all processor cores, and wait for it; see `Compilation`."""
    with Compilation(max_workers=max_workers) as compilation:
        compilation.add(jobs)
