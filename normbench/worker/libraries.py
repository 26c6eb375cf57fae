"""What a training process imports and opens at its start, under names that cost its parent nothing."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path
from threading import Thread

GPU = Path("/dev/nvidiactl")
"""There where there is a GPU of NVIDIA's, on Linux."""

_opened: list[ctypes.c_int] = []
"""The GPU whose context `_open_gpu` has made."""


def import_libraries() -> None:
    """Import torch and what training needs, which takes a second or more; a GPU and Triton are made ready meanwhile."""
    if GPU.exists():
        from normbench.triton_code.compiler import start_ahead

        start_ahead()
        Thread(target=_open_gpu, daemon=True).start()
    import normbench.worker.train_run  # noqa: F401


def _open_gpu() -> None:
    """Make the context that torch will use on the first GPU, which takes half a second of waiting for the driver."""
    with suppress(OSError):  # no driver
        driver, device = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
        context = ctypes.c_void_p()
        is_there = driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), 0) == 0
        if is_there and driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0:
            _opened.append(device)


def give_gpu_back() -> None:
    """Give back what `import_libraries` has opened: for a process that will not use it."""
    while _opened:
        ctypes.CDLL("libcuda.so.1").cuDevicePrimaryCtxRelease_v2(_opened.pop())
