"""Ctrl-C and SIGTERM while runs are going: the first lets them end their step and save, a second acts at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class HeldSignals:
    """Holds the first signal back until the block has ended, and delivers it then; a second is delivered at once.

    A signal that is ignored (a background job's Ctrl-C) stays ignored. Outside the main thread nothing can be held.
    """

    def __init__(self) -> None:
        self._held: int | None = None
        self._previous: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def arrived(self) -> bool:
        """Return whether a signal is being held."""
        return self._held is not None

    def __enter__(self) -> Self:
        for number in _SIGNALS if threading.current_thread() is threading.main_thread() else ():
            handler = signal.getsignal(number)
            if callable(handler):
                self._previous[number] = handler
                signal.signal(number, self._hold)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._held is not None and error is None:
            self._previous[self._held](self._held, None)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if self._held is not None:
            self._previous[number](number, frame)
        self._held = number
