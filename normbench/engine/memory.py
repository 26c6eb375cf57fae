"""The memory of a run: its peak, the room left, and what becomes of freed memory on a CPU."""

from __future__ import annotations

import ctypes
import gc
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

from normbench.engine.device import DeviceName, is_beside_others, synchronize

# Names and values are those of glibc's malloc.h and mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_MOST_BYTES = 2**31 - 1
_DEFAULT_MMAP_MAX = 65536
_USUAL_MMAP_THRESHOLD = 16 * 2**20 + 2**12
"""The threshold that glibc itself has reached after a step of NormResNet at batch size 64: its blocks have 16 MiB."""


def keep_freed_memory(device: DeviceName) -> None:
    """Have the C library keep what a training step on the CPU frees for the next one (glibc; elsewhere nothing).

    By itself it gives large blocks back to the system, from which the next step gets them anew page by page: at batch
    size 64 eight to eighteen thousand page faults a step, 2 to 18 % of its time (docs/performance.md).
    """
    if device == "cpu":
        _set_malloc({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _MOST_BYTES})


def return_freed_memory(device: DeviceName) -> None:
    """Undo `keep_freed_memory`: give back what is free, and go on as glibc does by itself.

    Its thresholds grow with the blocks that are freed, and once set they stay: they are set to what they had grown to.
    """
    if device == "cpu":
        threshold = _USUAL_MMAP_THRESHOLD
        _set_malloc({_M_MMAP_MAX: _DEFAULT_MMAP_MAX, _M_MMAP_THRESHOLD: threshold, _M_TRIM_THRESHOLD: 2 * threshold})
        _trim()


def free_memory_mib(device: DeviceName) -> float | None:
    """Return the device memory that is free, in MiB; None on a CPU, where steps keep nothing but their parameters."""
    if device != "cuda":
        return None
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0] / 2**20


def room_mib(device: DeviceName) -> float | None:
    """Return the device memory that is free, or that this process keeps for later, in MiB; None on a CPU.

    It waits for nothing, and some of it lies in pieces.
    """
    if device != "cuda":
        return None
    return (torch.cuda.mem_get_info()[0] + _kept_bytes()) / 2**20


def return_unused_memory(device: DeviceName) -> None:
    """Give the device memory that this process keeps for later back, if that is more than what is free to all.

    What graphs of ended runs held is kept apart, and no other run is given it: a process that trains many runs side by
    side would in the end keep the whole device from other programs. It waits for the device, so it is not always done.
    """
    if device == "cuda" and _kept_bytes() > torch.cuda.mem_get_info()[0]:
        torch.cuda.empty_cache()


def _kept_bytes() -> int:
    """Return the device memory that this process keeps for later."""
    return torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def _set_malloc(options: dict[int, int]) -> None:
    if _is_glibc():
        for option, value in options.items():
            ctypes.CDLL(None).mallopt(option, value)


def _trim() -> None:
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


@cache
def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"


class MemoryMeter:
    """Peak memory that a run adds to what was there before it: parameters, activations, optimizer, workspace.

    On CUDA the allocator's peak; on Linux CPUs the peak resident size of the process; None elsewhere.
    """

    def __init__(self, device: DeviceName) -> None:
        self._device = device
        self._before = 0
        self._own = 0
        self._peak = 0
        self._is_counting = True
        beside_others = is_beside_others(device)
        if not beside_others:  # which would wait a fifth of a second
            # What was before may be garbage in cycles: freed later, it would be taken for room that was there.
            gc.collect()
        if device == "cuda":
            torch._C._cuda_clearCublasWorkspaces()  # else only the first run of a process would be charged with them
            if not beside_others:
                torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self._before, _ = _allocated_bytes()
        elif device == "cpu":
            _trim()  # what the run before has freed may still be there, and would be used again unseen
            if _reset_peak_resident():
                self._before = _resident_bytes("VmRSS")

    def suspend(self) -> None:
        """Stop counting while another run of the process has its turn.

        On CUDA what a run allocates and frees, it does in its own turns, cuBLAS's work space included; on a CPU runs
        cannot be told apart any more.
        """
        if self._device == "cuda":
            torch._C._cuda_clearCublasWorkspaces()  # the next run would give back this one's with its own
            self._peak = self._peak_bytes()
            self._own = _allocated_bytes()[0] - self._before
        else:
            self._before = 0
        self._is_counting = False

    def resume(self) -> None:
        """Count again, if `suspend` has stopped that."""
        if not self._is_counting and self._device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self._before = _allocated_bytes()[0] - self._own
        self._is_counting = True

    def peak_mib(self) -> float | None:
        """Return the peak in MiB since the meter was made."""
        if self._device == "cuda":
            return self._peak_bytes() / 2**20
        if self._device == "cpu" and self._before:
            return max(0, _resident_bytes("VmHWM") - self._before) / 2**20
        return None

    def _peak_bytes(self) -> int:
        return max(self._peak, _allocated_bytes()[1] - self._before) if self._is_counting else self._peak


def _allocated_bytes() -> tuple[int, int]:
    """Return the device memory that tensors of this process take, and the most that they took since the last reset.

    As `torch.cuda.memory_allocated` and its like do, which sort out two hundred other numbers each time: runs that
    take turns ask some ten times a second.
    """
    found = torch.cuda.memory_stats_as_nested_dict()["allocated_bytes"]["all"]
    return found["current"], found["peak"]


def forget_warm_up(device: DeviceName) -> None:
    """Start the peak of a running meter anew, after a warm-up and before a capture.

    In the first run of a process cuDNN tries its algorithms in the warm-up, with work space that no other run needs.
    And cuBLAS takes its own anew in the capture, in the graph's memory: the meter of a next run would give back that of
    the warm-up (`MemoryMeter`), which a graph with matrix products would go on to use.
    """
    if device == "cuda":
        synchronize(device)
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.reset_peak_memory_stats()


def _resident_bytes(field: str) -> int:
    """Return ``VmRSS`` (now) or ``VmHWM`` (peak) of this process; 0 where the system does not say."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return 0


def _reset_peak_resident() -> bool:
    """Start a new peak of the resident size (Linux); return whether that is possible."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
