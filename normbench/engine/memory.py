"""The memory of a run: its peak, and what becomes of freed memory on a CPU."""

from __future__ import annotations

import gc
from contextlib import suppress
from pathlib import Path

import torch

from normbench.engine.device import DeviceName


class MemoryMeter:
    """Peak memory that a run adds to what was there before it: parameters, activations, optimizer, workspace.

    On CUDA the allocator's peak; on Linux CPUs the peak resident size of the process; None elsewhere.
    """

    def __init__(self, device: DeviceName) -> None:
        self._device = device
        self._before = 0
        gc.collect()  # what was before may be garbage in cycles: freed later, it would be taken for room that was there
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        elif device == "cpu" and _reset_peak_resident():
            self._before = _resident_bytes("VmRSS")

    def peak_mib(self) -> float | None:
        """Return the peak in MiB since the meter was made."""
        if self._device == "cuda":
            return (torch.cuda.max_memory_allocated() - self._before) / 2**20
        if self._device == "cpu" and self._before:
            return max(0, _resident_bytes("VmHWM") - self._before) / 2**20
        return None


def _resident_bytes(field: str) -> int:
    """Return ``VmRSS`` (now) or ``VmHWM`` (peak) of this process; 0 where the system does not tell."""
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
