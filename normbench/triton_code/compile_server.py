"""A process that compiles Triton kernels for another one, each in a fork of its own, into Triton's cache on disk.

Python's part of compiling a kernel takes a tenth of a second and keeps to one core of a process, so that threads bring
little. This process imports Triton and the kernels, but no torch, and needs no GPU. It reads requests from stdin, a
JSON object a line: a kernel to compile, as `normbench.triton_code.compiler` describes it, with a number; or the numbers
of kernels to wait for, which is answered by an empty line on stdout when those are compiled.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO


class _Driver:
    """What Triton asks of its driver while it compiles: for which device."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def get_current_target(self) -> Any:
        return self._target

    def get_current_device(self) -> int:
        return 0


def compile_kernel(module: str, kernel: str, specialization: str, target: list[Any]) -> None:
    """Compile one specialization of a kernel, in Triton's own description, and what launches it, into the cache."""
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.driver import CudaLauncher
    from triton.runtime.driver import driver

    driver.set_active(_Driver(GPUTarget(*target)))
    compiled = getattr(import_module(module), kernel).preload(specialization)
    CudaLauncher(compiled.src, compiled.metadata)  # C code before Triton 3.8; since then it fails here, and needs none


def serve(requests: Iterable[str], replies: TextIO, at_once: int, work: Callable[..., None] = compile_kernel) -> None:
    """Do what `requests` ask for, in at most so many processes `at_once`, until they end.

    What waits then is not begun any more. A process is forked by a thread that waits for it: no other thread does
    anything that the process could find half done.
    """
    begun: dict[int, Future[None]] = {}
    pool = ThreadPoolExecutor(at_once)
    for line in requests:
        request = json.loads(line)
        if "wait_for" in request:
            wait([begun[number] for number in request["wait_for"]])
            print(file=replies, flush=True)
        else:
            begun[request.pop("number")] = pool.submit(_in_a_process, work, request)
    pool.shutdown(cancel_futures=True)


def _in_a_process(work: Callable[..., None], request: dict[str, Any]) -> None:
    if process := os.fork():
        os.waitpid(process, 0)
        return
    with suppress(BaseException):  # the process that launches the kernel says what is wrong with it
        work(**request)
    os._exit(0)


def _import_all() -> None:
    """Import all that compiling takes, and have Triton read itself, which it does once in each process."""
    from triton.backends.nvidia import compiler  # noqa: F401
    from triton.compiler import code_generator  # noqa: F401
    from triton.runtime.cache import triton_key

    for path in Path(__file__).parent.glob("*_kernels.py"):
        import_module(f"normbench.triton_code.{path.stem}")
    triton_key()


def main() -> None:
    """Serve stdin until its end."""
    with suppress(Exception):
        _import_all()
    serve(sys.stdin, sys.stdout, len(os.sched_getaffinity(0)))


if __name__ == "__main__":
    main()
