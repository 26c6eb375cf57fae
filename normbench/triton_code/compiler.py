"""Compiling kernels in a process beside this one, started early: it imports what it needs while this one imports torch.

Needs no torch until it is used.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
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
        self._num_waiting = 0

    def wait(self) -> None:
        """Wait until all kernels that were sent are compiled."""
        if self._num_waiting:
            self._send({})
            assert self._process.stdout is not None
            self._process.stdout.readline()
        self._num_waiting = 0

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):  # what was to be sent to a process that is gone
            self._process.communicate()

    @contextmanager
    def taking_over(self) -> Iterator[None]:
        """Have kernels that this thread warms up compiled there, within the ``with`` block; `warmup` returns None."""
        from triton import knobs

        def take(*, fn: Any, compile: Any, is_manual_warmup: bool, **_: Any) -> bool:
            return is_manual_warmup and self._take(fn, compile["specialization_data"])

        before, knobs.runtime.jit_cache_hook = knobs.runtime.jit_cache_hook, take
        try:
            yield
        finally:
            knobs.runtime.jit_cache_hook = before

    def _take(self, function: Any, specialization: str) -> bool:
        from triton.runtime.driver import driver

        target = driver.active.get_current_target()
        self._num_waiting += 1
        return self._send(
            {
                "module": function.module,
                "kernel": function.name,
                "specialization": specialization,
                "target": [target.backend, target.arch, target.warp_size],
            }
        )

    def _send(self, request: dict[str, Any]) -> bool:
        """Return whether the process could be asked."""
        assert self._process.stdin is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except OSError:
            return False
        return True
