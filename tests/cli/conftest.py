"""The command line without its slowest part."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def quick(normbench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The same, but for the reports on disk, which take seconds to draw."""
    monkeypatch.setattr("normbench.experiment.execute.write_report_of", lambda _, **__: [])
    monkeypatch.setattr("normbench.experiment.execute.write_run_report", lambda _: [])
    return normbench
