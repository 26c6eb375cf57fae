"""Generator functions for worker processes to run."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from normbench.errors import DataError

MODULE = "worker_targets"


def count(stop: int) -> Iterator[int]:
    yield from range(stop)


def identity() -> Iterator[tuple[int, str | None]]:
    yield os.getpid(), os.environ.get("NORMBENCH_TEST")


def is_loaded(module: str) -> Iterator[bool]:
    yield module in sys.modules


def complain() -> Iterator[None]:
    raise DataError("no data there")
    yield


def crash() -> Iterator[None]:
    yield from ()
    1 / 0  # noqa: B018


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
