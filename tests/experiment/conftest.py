"""What tests of runs share."""

from typing import Any

import pytest


@pytest.fixture
def seen() -> list[Any]:
    """The events that a runner told its listener."""
    return []
