"""Compiling kernels in a process beside this one, started early: it imports what it needs while this one imports torch.

Needs no torch until it is used.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any

_server: CompileServer | None = None


def start_ahead() -> None:
    """Start a process for the compilations of this one, if there is Triton; and read Triton, which takes a second."""
    global _server
    if _server is None and importlib.util.find_spec("triton") is not None:
        _server = CompileServer()
        Thread(target=_read_triton, daemon=True).start()


def server() -> CompileServer | None:
    """Return the process that compiles for this one, if there is one."""
    return _server


def _read_triton() -> None:
    """Have Triton compute the hash over itself that its cache goes by: most of it without Python's lock."""
    from triton.runtime.cache import triton_key

    triton_key()


class CompileServer:
    """A process that compiles kernels into Triton's cache (`compile_server` beside this file).

    It ends with this process. Where it fails the kernels are compiled when they are launched.
    """

    def __init__(self) -> None:
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "normbench.triton_code.compile_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # whatever is wrong with a kernel shows where it is launched
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,  # Ctrl-C is not for it
            text=True,
            pipesize=2**20,  # for a hundred kernels or more, so that nobody waits to ask
        )
        self._numbers: dict[str, int] = {}
        """Those of the kernels that were sent, by what they were described with."""

    def wait(self, numbers: Collection[int]) -> None:
        """Wait until kernels that were sent are compiled, by their `numbers`."""
        if numbers and self._send({"wait_for": sorted(numbers)}):
            assert self._process.stdout is not None
            self._process.stdout.readline()

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):  # what was to be sent to a process that is gone
            self._process.communicate()

    @contextmanager
    def taking_over(self) -> Iterator[set[int]]:
        """Have kernels that this thread warms up compiled there, within the ``with`` block; `warmup` returns None.

        The set has their numbers, for `wait`.
        """
        from triton import knobs

        taken: set[int] = set()

        def take(*, fn: Any, compile: Any, is_manual_warmup: bool, **_: Any) -> bool:
            number = self._take(fn, compile["specialization_data"]) if is_manual_warmup else None
            if number is None:
                return False
            taken.add(number)
            return True

        before, knobs.runtime.jit_cache_hook = knobs.runtime.jit_cache_hook, take
        try:
            yield taken
        finally:
            knobs.runtime.jit_cache_hook = before

    def _take(self, function: Any, specialization: str) -> int | None:
        """Return the number of a kernel, which is sent the first time; None where the process could not be asked."""
        from triton.runtime.driver import driver

        target = driver.active.get_current_target()
        request = {
            "module": function.module,
            "kernel": function.name,
            "specialization": specialization,
            "target": [target.backend, target.arch, target.warp_size],
        }
        described = json.dumps(request)
        if described not in self._numbers:
            number = len(self._numbers)
            if not self._send(request | {"number": number}):
                return None
            self._numbers[described] = number
        return self._numbers[described]

    def _send(self, request: dict[str, Any]) -> bool:
        """Return whether the process could be asked."""
        assert self._process.stdin is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except OSError:
            return False
        return True
