"""Launches of Triton kernels, and their compilation ahead of time, which launches nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Self

from torch import Tensor

Launches = dict[Hashable, Callable[[], None]]
"""Functions that launch kernels, each under a key of all that decides which kernels those are."""

_compiled: ContextVar[set[Hashable] | None] = ContextVar("compiled", default=None)
"""The kernels compiled so far, in a thread whose launches only compile; None in one whose launches run."""


def launch(kernel: Any, grid: tuple[int, ...], *arguments: object, **settings: object) -> None:
    """Launch the Triton `kernel` with `grid` programs; inside a `Compilation`, compile and load it instead."""
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
    """Return the properties of an argument for which Triton compiles a kernel anew; or finer ones."""
    if isinstance(argument, Tensor):
        return argument.dtype, argument.data_ptr() % 16 == 0
    if isinstance(argument, int):
        return argument == 1, argument % 16 == 0, argument.bit_length() > 31
    return type(argument).__name__


class Compilation:
    """Compiles kernels in the background, on all processor cores; leaving the ``with`` block waits for all of them.

    Triton would otherwise compile kernels one after another, when each is first launched. A launch that fails here is
    ignored: it will fail in the same way when it is made, where the error has a place to go.

    The tensors may be on the CPU, where memory takes no room until something is written. (Not on the meta device: some
    of its operations import torch's compiler.)
    """

    def __init__(self, *, max_workers: int | None = None) -> None:
        self._pool = ThreadPoolExecutor(max_workers or os.cpu_count())
        self._keys: set[Hashable] = set()
        self._compiled: set[Hashable] = set()

    def add(self, launches: Launches) -> None:
        """Start the functions whose keys have not been added before."""
        for key in launches.keys() - self._keys:
            self._pool.submit(self._run, launches[key])
        self._keys |= launches.keys()

    def _run(self, launch_kernels: Callable[[], None]) -> None:
        token = _compiled.set(self._compiled)
        with suppress(Exception):
            launch_kernels()
        _compiled.reset(token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for all functions; where an exception leaves the block, only for those that run already."""
        self._pool.shutdown(cancel_futures=kind is not None)
