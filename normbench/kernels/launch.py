"""Launches of Triton kernels, and their compilation ahead of time, which launches nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from threading import Lock
from typing import Any, Self

from torch import Tensor

from normbench.triton_code import compiler

Launches = dict[Hashable, Callable[[], None]]
"""Functions that launch kernels, each under a key of all that decides which kernels those are."""

_loading = Lock()
"""Held while what launches a kernel is loaded, by one thread at a time.

Before Triton 3.8 that is a Python module, one for each signature and all of one name. Where two threads load such
modules at once, Python may hand one of them the other's function: a kernel was launched by what belongs to another.
"""

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
        if ready is not None:  # as it is where kernels are interpreted, or compiled elsewhere
            with _loading:
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

    Triton would otherwise compile kernels one after another, when each is first launched. Where another process
    compiles for this one (`normbench.triton_code.compiler`), it does so from `add` on, and here they are only loaded. A
    launch that fails here is ignored: it will fail in the same way when it is made, where the error has a place to go.

    The tensors may be on the CPU, where memory takes no room until something is written. (Not on the meta device: some
    of its operations import torch's compiler.)
    """

    def __init__(self, *, max_workers: int | None = None) -> None:
        self._pool = ThreadPoolExecutor(max_workers or os.cpu_count())
        self._keys: set[Hashable] = set()
        self._compiled: set[Hashable] = set()
        self._sent: set[Hashable] = set()
        self._waiting: list[Callable[[], None]] = []
        self._server = compiler.server()
        self._taken: set[int] = set()
        """The kernels that the other process compiles, by its numbers."""

    def add(self, launches: Launches) -> None:
        """Start the functions whose keys have not been added before."""
        new = [launches[key] for key in launches.keys() - self._keys]
        self._keys |= launches.keys()
        if self._server is None:
            self._start(new)
            return
        with self._server.taking_over() as taken:
            for launch_kernels in new:
                _run(launch_kernels, self._sent)
        self._taken |= taken
        self._waiting += new

    def _start(self, functions: Iterable[Callable[[], None]]) -> None:
        for launch_kernels in functions:
            self._pool.submit(_run, launch_kernels, self._compiled)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for all functions; where an exception leaves the block, only for those that run already."""
        if self._server is not None and kind is None:
            self._server.wait(self._taken)
            self._start(self._waiting)
        self._pool.shutdown(cancel_futures=kind is not None)


def _run(launch_kernels: Callable[[], None], compiled: set[Hashable]) -> None:
    """Compile what a function launches and is not `compiled` yet."""
    token = _compiled.set(compiled)
    with suppress(Exception):
        launch_kernels()
    _compiled.reset(token)
