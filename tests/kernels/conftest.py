"""Makes Triton interpret the kernels on the CPU, in these tests; tests/conftest.py imports it for that."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _interpreted_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
