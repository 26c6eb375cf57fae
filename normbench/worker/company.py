"""The runs that a process trains at once: each on a stream of its own, and all prepared before any of them trains."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from normbench.engine.device import DeviceName
from normbench.engine.memory import MemoryMeter, return_unused_memory, room_mib
from normbench.runs.events import Pause

T = TypeVar("T")

_ROOM_FACTOR = 1.2
"""A run is let in where the memory that another one took, by this factor, is free: what is free lies in pieces."""


@dataclass(eq=False)
class Member:
    """A run among those that this process trains at once."""

    memory: MemoryMeter | None = None
    is_preparing: bool = True

    def when_all_are_prepared(self) -> Pause:
        """Return a pause until no run is being built or captured any more; this one is not."""
        self.is_preparing = False
        return Pause(lambda: not any(member.is_preparing for member in _members))


_members: list[Member] = []
_idle_streams: list[torch.cuda.Stream] = []
"""Used again, because torch has 32 of a device and then gives those out a second time."""


def train_in_company(train: Callable[[Member], Generator[T, None, None]], device: DeviceName) -> Iterator[T]:
    """Yield what `train` yields, computed on a stream of its own; closed early, it is closed there too."""
    stream = None
    if device == "cuda":
        stream = _idle_streams.pop() if _idle_streams else torch.cuda.Stream()
    member = Member()
    events = train(member)
    _members.append(member)
    try:
        while True:
            with torch.cuda.stream(stream):
                try:
                    event = next(events)
                except StopIteration:
                    return
            yield event
    finally:
        _members.remove(member)
        with torch.cuda.stream(stream):
            events.close()
        if stream is not None:
            _idle_streams.append(stream)


def check_room(device: DeviceName) -> None:
    """Raise `MemoryError` where the device has no room for another run like those that it trains."""
    return_unused_memory(device)
    peaks = [member.memory.peak_mib() or 0.0 for member in _members if member.memory is not None]
    free = room_mib(device) if peaks else None
    if free is not None and _ROOM_FACTOR * max(peaks) > free:
        raise MemoryError(f"{free:,.0f} MiB are free beside {len(peaks)} other runs, which took {max(peaks):,.0f} each")
