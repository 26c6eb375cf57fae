"""The command line without its slowest part."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def quick(normbench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The same, but for the reports on disk, which take seconds to draw."""
    for module in ("normbench.report", "normbench.experiment.execute"):
        monkeypatch.setattr(f"{module}.write_report_of", lambda _, **__: [])
        monkeypatch.setattr(f"{module}.write_run_report", lambda _: [])
    return normbench
