"""Where a training may let others of its process go on: while its device computes what it has been asked for."""

from __future__ import annotations

from collections.abc import Callable

import torch

from normbench.engine.device import DeviceName
from normbench.runs.events import Pause

STEPS_PER_TURN = 50
"""Steps that are asked for before another training gets its turn.

One such turn's steps stay in the queue of the GPU while the next ones are asked for: of eight runs they last for some
50 ms, about as long as another run takes to get ready.
"""


class Turns:
    """Makes the pauses of one training; call its methods on the stream on which it computes."""

    def __init__(self, device: DeviceName) -> None:
        self._is_cuda = device == "cuda"
        self._last = _always

    def pause(self) -> Pause:
        """Return a pause until all that was asked for before the last pause is done."""
        before, self._last = self._last, self._mark()
        return Pause(before)

    def pause_until_done(self) -> Pause:
        """Return a pause until all that was asked for is done."""
        self._last = self._mark()
        return Pause(self._last)

    def _mark(self) -> Callable[[], bool]:
        """Return what tells whether the device has done all that it was asked for up to now."""
        if not self._is_cuda:
            return _always
        event = torch.cuda.Event()
        event.record()
        return event.query


def _always() -> bool:
    return True
