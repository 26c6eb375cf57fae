"""The devices, dtypes and memory formats on which kernels run, and a way to do without kernels."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
HALF_DTYPES = (torch.bfloat16, torch.float16)
MAX_ELEMENTS = 2**31 - 1
"""Elements of a tensor, at most, as offsets are 32-bit."""

_switched_off: ContextVar[bool] = ContextVar("switched_off", default=False)


@contextmanager
def switched_off() -> Iterator[None]:
    """Let every layer take torch's operations instead of a kernel, within the ``with`` block."""
    token = _switched_off.set(True)
    try:
        yield
    finally:
        _switched_off.reset(token)


def unsupported_device_reason(device: torch.device) -> str | None:
    """Return None where kernels can run on `device`, and otherwise why not, in one line."""
    if _switched_off.get():
        return "kernels are switched off"
    if not (device.type == "cuda" or (device.type == "cpu" and interpreting())):
        return f"no fused kernels on {device.type}"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return "fused kernels need compute capability 8.0"
    return None


def unsupported_input_reason(x: Tensor) -> str | None:
    """Return None where kernels can work on `x`, ``(N, C, H, W)``, by itself, and otherwise why not, in one line."""
    reason = unsupported_device_reason(x.device)
    if reason is not None:
        return reason
    if x.dtype not in DTYPES:
        return f"no fused kernels for {str(x.dtype).removeprefix('torch.')}"
    if x.ndim != 4 or x.numel() == 0:
        return f"fused kernels take (N, C, H, W) with at least one element, not {tuple(x.shape)}"
    if not is_dense(x):
        return "input is neither contiguous nor channels_last"
    if x.numel() > MAX_ELEMENTS:
        return f"{x.numel()} elements exceed 32-bit offsets"
    return None


def is_channels_last(x: Tensor) -> bool:
    """Return whether channels are adjacent in memory."""
    return x.is_contiguous(memory_format=torch.channels_last)


def is_dense(x: Tensor) -> bool:
    """Return whether `x` is contiguous in one of the two memory formats."""
    return is_channels_last(x) or x.is_contiguous()


def interpreting() -> bool:
    """Return whether Triton interprets kernels on the CPU, as tests do (TRITON_INTERPRET=1)."""
    return os.environ.get("TRITON_INTERPRET") == "1"
