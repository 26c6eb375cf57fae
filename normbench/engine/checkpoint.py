"""Checkpoints on disk: there whole or not at all, and read without running code from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from normbench.errors import NormBenchError, first_line
from normbench.runs.atomic import write_atomically

SECONDS_BETWEEN_CHECKPOINTS = 30.0


class CheckpointError(NormBenchError):
    """A checkpoint cannot be written or read."""


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Replace `path` by `state`: tensors, numbers, strings, lists and dicts.

    Raises:
        CheckpointError: it cannot be written; what was there stays.
    """
    try:
        write_tensors(state, path)
    except OSError as error:
        raise CheckpointError(f"{path}: the checkpoint cannot be written: {first_line(error)}") from error


def write_tensors(state: dict[str, Any], path: Path) -> None:
    """Replace `path` by `state`, as `torch.save` writes it; what was there stays if that fails, by an `OSError`."""
    try:
        write_atomically(path, lambda file: torch.save(state, file))
    except RuntimeError as error:  # torch reports a full disk so
        raise OSError(first_line(error)) from error


def load_checkpoint(path: Path, load_state_dict: Callable[[dict[str, Any]], None]) -> None:
    """Hand what `save_checkpoint` wrote, on the CPU, to `load_state_dict`.

    Raises:
        CheckpointError: the file cannot be read, or is of another training.
    """
    try:
        load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    except Exception as error:  # whatever a damaged file leads to
        raise CheckpointError(
            f"{path}: the checkpoint cannot be read ({first_line(error)}); --retry trains the run anew"
        ) from error
