"""The tasks that norms are compared in: one small object each. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from normbench.tasks.classification import CLASSIFICATION
from normbench.tasks.style_transfer import STYLE_TRANSFER
from normbench.tasks.task import Measure, Task

__all__ = ["TASKS", "Measure", "Task"]

TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in (CLASSIFICATION, STYLE_TRANSFER)})
"""All tasks by the value of ``task:`` in a config."""
