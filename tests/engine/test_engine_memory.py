"""The peak memory of a run, and what becomes of freed memory on a CPU."""

import os
import platform
import subprocess
import sys
import weakref

import pytest
import torch

from normbench.engine.memory import MemoryMeter, keep_freed_memory, return_freed_memory, return_unused_memory
from normbench.worker.company import check_room

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told what to keep")


@pytest.mark.skipif(
    not os.path.exists("/proc/self/clear_refs"), reason="the peak of a process is read from Linux's /proc"
)
def test_the_meter_sees_memory_that_was_given_back_already() -> None:
    meter = MemoryMeter("cpu")
    block = torch.ones(64 * 2**20 // 4)  # 64 MiB
    del block
    assert 60 < meter.peak_mib() < 100


@needs_glibc
def test_the_meter_sees_memory_that_the_run_before_has_freed_and_kept() -> None:
    keep_freed_memory("cpu")
    try:
        block = torch.ones(256 * 2**20 // 4)
        del block
        meter = MemoryMeter("cpu")
        block = torch.ones(64 * 2**20 // 4)
        del block
        assert 60 < meter.peak_mib() < 100
    finally:
        return_freed_memory("cpu")


def test_the_meter_begins_without_garbage() -> None:
    """Freed while it measures, the garbage of the run before would hide as much memory of this one."""

    class Cycle:
        def __init__(self) -> None:
            self.itself = self

    garbage = weakref.ref(Cycle())
    MemoryMeter("cpu")
    assert garbage() is None


_STEPS = """
import resource, torch
from normbench.engine.memory import _resident_bytes, keep_freed_memory, return_freed_memory

def faults_of_the_last_of_ten_steps():  # where blocks come to lie settles within six, by fifty tries
    for _ in range(10):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [torch.ones(mebibytes * 2**18) for mebibytes in (48, 16, 48)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults_of_the_last_of_ten_steps())
keep_freed_memory("cpu")
print(faults_of_the_last_of_ten_steps())
held = _resident_bytes("VmRSS")
return_freed_memory("cpu")
print((held - _resident_bytes("VmRSS")) // 2**20)
"""


@needs_glibc
def test_kept_memory_is_not_asked_of_the_system_again_until_it_is_returned() -> None:
    """The system counts what it hands out as page faults: 28,672 of 4 KiB each for these blocks, fewer if larger."""
    environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": "0"}
    process = subprocess.run([sys.executable, "-c", _STEPS], env=environment, capture_output=True, check=True)
    faults_by_itself, faults_when_kept, returned_mib = (int(line) for line in process.stdout.split())
    assert faults_by_itself > 1000
    assert faults_when_kept < 20
    assert returned_mib > 100


@pytest.mark.parametrize(("kept_mib", "free_mib", "is_returned"), [(300, 200, True), (100, 200, False)])
@pytest.mark.parametrize("function", [return_unused_memory, check_room])
def test_memory_that_is_kept_for_later_is_returned_where_others_have_less(
    monkeypatch, function, kept_mib: int, free_mib: int, is_returned: bool
) -> None:
    calls = []
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda: (kept_mib + 50) * 2**20)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda: 50 * 2**20)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (free_mib * 2**20, 2**40))
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: calls.append("empty_cache"))
    function("cuda")
    assert bool(calls) == is_returned


@pytest.mark.gpu
def test_the_memory_of_a_graph_that_is_gone_is_kept_until_others_have_less(monkeypatch) -> None:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        block = torch.ones(2**28, device="cuda")  # 1 GiB
    del graph, block
    kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    assert kept >= 2**30
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (2**40, 2**41))
    return_unused_memory("cuda")
    assert torch.cuda.memory_reserved() - torch.cuda.memory_allocated() == kept
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (2**29, 2**40))
    return_unused_memory("cuda")
    assert torch.cuda.memory_reserved() - torch.cuda.memory_allocated() < 2**30
