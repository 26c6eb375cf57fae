"""Makes Triton interpret the kernels on the CPU, in these tests and nowhere else."""

from __future__ import annotations

import importlib.util
import os

import pytest

if importlib.util.find_spec("triton") is not None:
    # Triton decides when it and the kernels are imported; the rest of the process must not see the variable, because
    # with it every layer on the CPU would take the interpreted kernels.
    os.environ["TRITON_INTERPRET"] = "1"
    import normbench.kernels.functions  # noqa: F401

    del os.environ["TRITON_INTERPRET"]


@pytest.fixture(autouse=True)
def _interpreted_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
