"""Signals that end the program: at once, or, while runs are going, after they have ended their step and saved."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Self

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name))
"""Ctrl-C, the polite end, a closed terminal, and Ctrl-backslash: each may go to the whole process group."""


def exit_on_signals() -> None:
    """Let signals end this process, with exit code 128 + their number and without a traceback.

    One that is ignored (by `nohup`, or Ctrl-C by a background job) stays ignored.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _exit)


def ignore_signals() -> None:
    """Let nothing disturb the end of this process."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _exit(number: int, frame: FrameType | None) -> None:
    """Raise what ends the program; while modules are imported end it, because an import may turn that into an error."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(128 + number)
        frame = frame.f_back
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


class HeldSignals:
    """Holds the first signal back until the block has ended, and delivers it then; a second is delivered at once.

    Further ones are held again, so that nothing disturbs what the second does. A signal that is ignored stays ignored.
    Outside the main thread nothing can be held.
    """

    def __init__(self) -> None:
        self._arrived: list[int] = []
        self._previous: dict[int, signal._HANDLER] = {}

    def arrived(self) -> bool:
        """Return whether a signal is being held."""
        return bool(self._arrived)

    @property
    def is_urgent(self) -> bool:
        """Whether a second signal came."""
        return len(self._arrived) > 1

    def __enter__(self) -> Self:
        for number in SIGNALS if threading.current_thread() is threading.main_thread() else ():
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):
                self._previous[number] = handler
                signal.signal(number, self._hold)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._arrived and error is None:
            signal.raise_signal(self._arrived[0])

    def _hold(self, number: int, frame: FrameType | None) -> None:
        self._arrived.append(number)
        if len(self._arrived) == 2:
            previous = self._previous[number]
            if callable(previous):
                previous(number, frame)
            else:
                raise SystemExit(128 + number)
