"""The imports of a training process, under a name that costs its parent nothing."""

from __future__ import annotations


def import_libraries() -> None:
    """Import torch and what training needs, which takes a second or more; the compiler of kernels starts meanwhile."""
    from normbench.kernels.compiler import start_ahead

    start_ahead()
    import normbench.worker.train_run  # noqa: F401
