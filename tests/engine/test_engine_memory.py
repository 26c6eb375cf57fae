"""The peak memory of a run."""

import os
import weakref

import pytest
import torch

from normbench.engine.memory import MemoryMeter


@pytest.mark.skipif(
    not os.path.exists("/proc/self/clear_refs"), reason="the peak of a process is read from Linux's /proc"
)
def test_the_meter_sees_memory_that_was_given_back_already() -> None:
    meter = MemoryMeter("cpu")
    block = torch.ones(64 * 2**20 // 4)  # 64 MiB
    del block
    assert 60 < meter.peak_mib() < 100


def test_the_meter_begins_without_garbage() -> None:
    """Freed while it measures, the garbage of the run before would hide as much memory of this one."""

    class Cycle:
        def __init__(self) -> None:
            self.itself = self

    garbage = weakref.ref(Cycle())
    MemoryMeter("cpu")
    assert garbage() is None
