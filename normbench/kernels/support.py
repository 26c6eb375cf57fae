"""Where the kernels can run; imports torch but not Triton."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from normbench.kernels.spec import NormActSpec
from normbench.kernels.tiling import power_of_two

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_CHANNELS = 4096
"""Lanes of the widest tile: a group, or all channels of a position."""
MAX_IMAGE_CHANNELS = 4
"""Of images; for more channels a convolution is better computed otherwise than by patches."""
MAX_POOLED = 32768
"""Elements of a sample whose mean over positions one program takes, and of the weight that multiplies it."""
MAX_ELEMENTS = 2**31 - 1
"""Offsets are 32-bit."""


_switched_off: ContextVar[bool] = ContextVar("switched_off", default=False)


@contextmanager
def switched_off() -> Iterator[None]:
    """Let no kernel of ours run: every layer takes torch's operations."""
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


def unsupported_reason(x: Tensor, spec: NormActSpec) -> str | None:
    """See `normbench.kernels.unsupported_reason`."""
    reason = unsupported_device_reason(x.device)
    if reason is not None:
        return reason
    if x.dtype not in DTYPES:
        return f"no fused kernels for {str(x.dtype).removeprefix('torch.')}"
    if x.ndim != 4 or x.numel() == 0:
        return f"fused kernels take (N, C, H, W) with at least one element, not {tuple(x.shape)}"
    if not is_dense(x):
        return "input is neither contiguous nor channels_last"
    n, c, h, w = x.shape
    if x.numel() > MAX_ELEMENTS:
        return f"{x.numel()} elements exceed 32-bit offsets"
    groups = spec.num_groups(c)
    if c % groups:
        return f"{groups} groups do not divide {c} channels"
    if c // groups > MAX_CHANNELS:
        return f"groups of {c // groups} channels exceed a tile's {MAX_CHANNELS}"
    if spec.scope == "position" and spec.activation not in ("none", "relu"):
        return f"no fused kernel for statistics by position with {spec.activation}"
    values = {"sample": c // groups * h * w, "batch": n * h * w, "position": c}[spec.scope]
    if values == 1 and spec.centered:
        return "statistics of a single value"
    return None


def can_convolve_images(images: Tensor, weight_shape: torch.Size, dtype: torch.dtype) -> bool:
    """See `normbench.kernels.can_convolve_images`."""
    if images.ndim != 4 or weight_shape[1:] != (images.shape[1], 3, 3) or images.shape[1] > MAX_IMAGE_CHANNELS:
        return False
    if images.dtype not in DTYPES or dtype not in (torch.bfloat16, torch.float16):
        return False
    if images.requires_grad and torch.is_grad_enabled():
        return False
    num_outputs = images[:, 0].numel() * weight_shape[0]
    fits = images.numel() > 0 and num_outputs <= MAX_ELEMENTS and is_channels_last(images)
    return fits and unsupported_device_reason(images.device) is None


def can_pool_linear(x: Tensor, weight_shape: torch.Size, dtype: torch.dtype) -> bool:
    """See `normbench.kernels.can_pool_linear`."""
    if x.ndim != 4 or x.numel() == 0 or weight_shape[1:] != x.shape[1:2]:
        return False
    if x.dtype != dtype or dtype not in (torch.bfloat16, torch.float16):
        return False
    _, channels, height, width = x.shape
    lanes = power_of_two(channels) * power_of_two(max(height * width, weight_shape[0]))
    fits = x.numel() <= MAX_ELEMENTS and lanes <= MAX_POOLED and is_channels_last(x)
    return fits and unsupported_device_reason(x.device) is None


def is_channels_last(x: Tensor) -> bool:
    """Return whether channels are adjacent in memory."""
    return x.is_contiguous(memory_format=torch.channels_last)


def is_dense(x: Tensor) -> bool:
    """Return whether `x` is contiguous in one of the two memory formats."""
    return is_channels_last(x) or x.is_contiguous()


def interpreting() -> bool:
    """Return whether Triton interprets kernels on the CPU, as tests do (TRITON_INTERPRET=1)."""
    return os.environ.get("TRITON_INTERPRET") == "1"
