"""Choosing device, precision and engine, and what is told where one is not there."""

import pytest
import torch

from normbench.engine.device import (
    computes_bf16_slowly,
    describe,
    resolve_device,
    resolve_engine,
    resolve_precision,
    visible_gpus,
)
from normbench.errors import ConfigError, DeviceError


def test_auto_prefers_an_accelerator(monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == "cuda"
    assert resolve_device("cpu") == "cpu"


def test_a_device_that_is_not_there_is_told_with_those_that_are(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"'cuda' is not available.*Available: cpu$") as caught:
        resolve_device("cuda")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("supported", "limit", "expected"),
    [
        (False, None, "fp32"),
        (True, None, "bf16"),
        (True, "avx512_core_amx", "bf16"),
        (True, "AVX512_CORE_BF16", "fp32"),
        (True, "AVX2", "fp32"),
    ],
)
def test_on_a_cpu_auto_is_bf16_with_amx(monkeypatch, supported: bool, limit: str | None, expected: str) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: supported)  # a faked processor
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert resolve_precision("auto", "cpu") == expected
    assert ("AMX" in describe("cpu")["cpu_capability"]) == (expected == "bf16")
    assert {resolve_precision(precision, "cpu") for precision in ("fp32", "bf16")} == {"fp32", "bf16"}


def test_a_torch_that_cannot_tell_of_amx_has_none(monkeypatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert resolve_precision("auto", "cpu") == "fp32"


@pytest.mark.parametrize(
    ("machine", "has_amx", "has_avx512_bf16", "expected"),
    [
        ("x86_64", False, False, True),
        ("x86_64", True, False, False),
        ("AMD64", False, True, False),
        ("arm64", False, False, False),  # of which torch does not say
    ],
)
def test_a_cpu_computes_bf16_slowly_without_instructions_for_it(
    monkeypatch, machine: str, has_amx: bool, has_avx512_bf16: bool, expected: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_avx512_bf16, raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert computes_bf16_slowly() is expected


def test_elsewhere_auto_is_fp32_and_eager() -> None:
    assert resolve_precision("auto", "mps") == "fp32"  # nothing of a device is asked
    assert resolve_engine("auto", "mps") == resolve_engine("auto", "cpu") == "eager"


def test_what_only_cuda_has_is_refused_elsewhere() -> None:
    with pytest.raises(ConfigError, match="tf32 exists on cuda only"):
        resolve_precision("tf32", "cpu")
    with pytest.raises(ConfigError, match=r"graph.* exists on cuda only"):
        resolve_engine("graph", "cpu")


@pytest.mark.parametrize(
    ("count", "chosen", "expected"),
    [
        (0, None, []),
        (0, "", []),
        (2, None, ["0", "1"]),
        (2, "5, 3", ["5", "3"]),
        (1, "GPU-8932f937,-1,7", ["GPU-8932f937"]),  # CUDA stops at the first that is none
    ],
)
def test_gpus_are_called_as_the_environment_calls_them(monkeypatch, count: int, chosen: str | None, expected) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_gpus() == expected


def test_a_device_is_described_by_what_matters_for_a_timing() -> None:
    facts = describe("cpu")
    assert facts["torch"] == torch.__version__
    assert facts["device"] == "cpu"
    assert facts["num_threads"] == torch.get_num_threads()
    assert facts["cpu"]
