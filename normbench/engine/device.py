"""The device a run uses: choosing it, what it can do, waiting for it, and its description."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

from normbench.errors import CUDA_OUT_OF_MEMORY, ConfigError, DeviceError

DeviceName = Literal["cpu", "cuda", "mps"]
Precision = Literal["fp32", "tf32", "bf16"]
Engine = Literal["eager", "graph", "compile"]


def resolve_device(requested: str) -> DeviceName:
    """Return the device type for ``auto|cpu|cuda|mps``.

    Raises:
        DeviceError: the requested device is not there; the message says what is.
    """
    available: dict[str, bool] = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    names: tuple[DeviceName, ...] = ("cuda", "mps", "cpu")
    if requested == "auto":
        return next(name for name in names if available[name])
    for name in names:
        if name == requested and available[name]:
            return name
    here = ", ".join(name for name in names if available[name])
    raise DeviceError(f"device {requested!r} is not available here (torch {torch.__version__}). Available: {here}")


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, in order, each as ``CUDA_VISIBLE_DEVICES`` calls it."""
    count = torch.cuda.device_count()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in chosen.split(",")[:count]] if chosen else [str(index) for index in range(count)]


def resolve_precision(requested: str, device: DeviceName) -> Precision:
    """Return the precision for ``auto|fp32|tf32|bf16`` on `device`.

    `auto` is bf16 where it is much faster, on CUDA and on a CPU with AMX, and fp32 elsewhere.

    Raises:
        ConfigError: tf32 away from CUDA.
    """
    if requested == "auto":
        is_fast = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if is_fast or (device == "cpu" and has_amx()) else "fp32"
    if requested == "tf32" and device != "cuda":
        raise ConfigError(f"precision tf32 exists on cuda only, not on {device}. Allowed: auto, fp32, bf16")
    precisions: tuple[Precision, ...] = ("fp32", "tf32", "bf16")
    return next(name for name in precisions if name == requested)


def resolve_engine(requested: str, device: DeviceName) -> Engine:
    """Return the engine for ``auto|eager|graph|compile`` on `device`.

    Raises:
        ConfigError: graph away from CUDA.
    """
    if requested == "auto":
        return "graph" if device == "cuda" else "eager"
    if requested == "graph" and device != "cuda":
        raise ConfigError(f"engine graph exists on cuda only, not on {device}. Allowed: auto, eager, compile")
    engines: tuple[Engine, ...] = ("eager", "graph", "compile")
    return next(name for name in engines if name == requested)


def set_arithmetic(precision: Precision, device: DeviceName, *, reproducible: bool = True) -> None:
    """Have CUDA compute in `precision`, and the same bits each time unless not `reproducible`.

    Sets the float32 arithmetic of matrix products and convolutions; bf16 comes from autocast on top. To be
    reproducible, cuDNN takes the algorithm that its own heuristics name, because each process that times them may
    choose another; and torch takes deterministic implementations where it has them (`normbench.engine.same_bits`).
    """
    if device == "cuda":
        mode = "ieee" if precision == "fp32" else "tf32"
        torch.backends.cuda.matmul.fp32_precision = mode
        torch.backends.cudnn.conv.fp32_precision = mode  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = not reproducible
        torch.backends.cudnn.deterministic = reproducible
        _prefer_deterministic(reproducible)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def set_default_arithmetic(device: DeviceName) -> None:
    """Undo `set_arithmetic`: torch's defaults allow TF32 in convolutions and not in matrix products."""
    if device == "cuda":
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.backends.cudnn.conv.fp32_precision = "tf32"  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False
        _prefer_deterministic(False)
        torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


def _prefer_deterministic(wanted: bool) -> None:
    """Have torch take deterministic implementations where it has them, and warn where it has none; or undo that.

    `torch.use_deterministic_algorithms` also imports torch's compiler, to tell it so, which takes seconds.
    """
    torch.set_deterministic_debug_mode("warn" if wanted else "default")


@contextmanager
def full_precision(device: DeviceName) -> Iterator[None]:
    """Have CUDA compute float32 products and convolutions in float32 within the ``with`` block, not in TF32."""
    if device != "cuda":
        yield
        return
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = matmul.fp32_precision, conv.fp32_precision
    matmul.fp32_precision = conv.fp32_precision = "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision, conv.fp32_precision = before


def is_usable() -> bool:
    """Return whether this process can still use its GPU: a fault in a kernel (a bad index, say) ends that for good."""
    try:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def is_beside_others(device: DeviceName) -> bool:
    """Return whether what computes now has a stream of its own, beside other trainings of the process."""
    return device == "cuda" and torch.cuda.current_stream() != torch.cuda.default_stream()


def synchronize(device: DeviceName) -> None:
    """Wait until the device has done all that was asked of it; beside others, all that this training has asked for."""
    if is_beside_others(device):
        torch.cuda.current_stream().synchronize()
    elif device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def is_capturing(device: torch.device) -> bool:
    """Return whether operations on `device` are being recorded into a CUDA graph now."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def is_out_of_memory(error: Exception) -> bool:
    """Return whether `error` says that memory is used up.

    torch on a CPU says so by a `RuntimeError`, and CUDA by another one where it is not torch that allocates.
    """
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        sign in str(error) for sign in ("DefaultCPUAllocator", "bad_alloc", CUDA_OUT_OF_MEMORY)
    )


def describe(device: DeviceName) -> dict[str, Any]:
    """Return versions and hardware, as `environment.json` and `normbench env` show them."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": str(torch.__version__),
        "device": device,
        "device_name": _cpu_name(),
        "cpu": _cpu_name(),
        "cpu_capability": cpu_capability(),
        "num_threads": torch.get_num_threads(),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "device_name": properties.name,
            "device_memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "triton": _version_of("triton"),
            "gpu_uuid": str(properties.uuid),
            "driver": _nvidia_driver(),
            "num_devices": torch.cuda.device_count(),
        }
    return facts


def has_amx() -> bool:
    """Return whether this CPU multiplies bf16 matrices by AMX, and system and ``ONEDNN_MAX_CPU_ISA`` let it."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    is_supported = getattr(torch.cpu, "_is_amx_tile_supported", None)  # not in every version of torch
    return is_supported is not None and is_supported() and (limit in ("ALL", "DEFAULT", "") or "AMX" in limit)


def computes_bf16_slowly() -> bool:
    """Return whether this CPU is known to have no instructions for bf16, so that float32 is much faster."""
    has_instructions = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # not in every version of torch
    is_x86 = platform.machine() in ("x86_64", "AMD64")  # of others torch does not say
    return is_x86 and has_instructions is not None and not has_instructions() and not has_amx()


def cpu_capability() -> str:
    """Return the vector instructions that torch uses on this CPU, as ``AVX512`` or ``AVX512, AMX``."""
    return torch.backends.cpu.get_cpu_capability() + (", AMX" if has_amx() else "")


def _version_of(package: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(package)
    return None


@cache
def _nvidia_driver() -> str | None:
    """Return the version of NVIDIA's driver, which torch does not know; None where the system does not say."""
    with suppress(OSError):
        return Path("/sys/module/nvidia/version").read_text(encoding="ascii").strip()
    with suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.split()
        return found[0] if found else None
    return None


@cache
def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def autocast(device: DeviceName, precision: Precision) -> torch.autocast:
    """Return the context in which the forward pass runs.

    The cast weights are not cached: a cache would outlive a captured graph's memory.
    """
    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)


def activation_dtype(precision: Precision) -> torch.dtype:
    """Return the dtype in which convolutions hand their output to the norms."""
    return torch.bfloat16 if precision == "bf16" else torch.float32
