"""Functions for worker processes to run."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from normbench.errors import DataError, UnknownNameError


def count(stop: int) -> Iterator[int]:
    yield from range(stop)


def identity() -> tuple[int, str | None]:
    return os.getpid(), os.environ.get("NORMBENCH_TEST")


def import_wave() -> None:
    import wave  # noqa: F401


def import_nothing() -> None:
    import no.such.module  # noqa: F401


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
