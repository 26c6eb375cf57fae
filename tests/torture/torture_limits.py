"""Limits of processor time and memory under which the torture tests try what is damaged."""

from __future__ import annotations

import gc
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class TookTooLong(BaseException):
    """No Exception, so that nothing in the package takes it for one of its own problems."""


@contextmanager
def memory_limited(num_bytes: int) -> Iterator[None]:
    """Let this process have no more than `num_bytes` beside what it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def cpu_seconds_limited(seconds: float) -> Iterator[None]:
    """Raise `TookTooLong` where the block takes more processor time, without what others' garbage would add to it."""

    def end(*_: object) -> None:
        raise TookTooLong(f"over {seconds} s of CPU time")

    before = signal.signal(signal.SIGPROF, end)
    gc.disable()  # that of the test's own framework grows to seconds
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        gc.enable()
        signal.signal(signal.SIGPROF, before)
