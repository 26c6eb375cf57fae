"""The imports of a training process, under a name that costs its parent nothing."""

from __future__ import annotations


def import_libraries() -> None:
    """Import torch and what training needs, which takes a second or more."""
    import normbench.worker.train_run  # noqa: F401
