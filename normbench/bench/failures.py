"""What went wrong with one case, in a line."""

from __future__ import annotations

import torch


def reason(error: Exception) -> str:
    """Return the kind of error and the first line of its message."""
    first_line = (str(error).strip() or "no message").splitlines()[0]
    if isinstance(error, torch.OutOfMemoryError):
        return f"out of memory beside the other cases: {first_line}"
    return f"{type(error).__name__}: {first_line}"
