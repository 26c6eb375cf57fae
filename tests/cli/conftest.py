"""The command line without its slowest part."""

from collections.abc import Callable
from typing import Any

import pytest

from normbench.report.drawing import Drawn


@pytest.fixture
def quick(normbench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The same, but for the reports on disk, which take seconds to draw."""
    for name in ("report.write_report_of", "experiment.execute.write_report_of"):
        monkeypatch.setattr(f"normbench.{name}", lambda _, **__: [])
    for name in ("report.write_run_report", "experiment.execute.write_run_report"):
        monkeypatch.setattr(f"normbench.{name}", lambda _: [])
    return normbench


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports with all their texts, and no figure."""
    monkeypatch.setattr("normbench.report.drawing.draw_figure", lambda _: Drawn("", {}))
