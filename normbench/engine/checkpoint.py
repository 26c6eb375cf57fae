"""Checkpoints on disk: there whole or not at all, checked before they are used, and read without running their code.

A checkpoint is what `torch.save` writes, with a comment at the end of the zip file: the run's id, and a SHA-256 digest
of all that stands before it. Checkpoints of before that have no comment; their members' CRC-32 is checked instead.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from normbench.errors import NormBenchError, first_line
from normbench.runs.atomic import write_atomically

_END_OF_ZIP = b"PK\x05\x06"
_MAX_COMMENT_BYTES = 1024
_COMMENT = "normbench run {run_id} sha256 {digest}"


class CheckpointError(NormBenchError):
    """A checkpoint cannot be written or read, or is not of this run."""


def save_checkpoint(state: dict[str, Any], path: Path, run_id: str) -> None:
    """Replace `path` by `state`: tensors, numbers, strings, lists and dicts.

    Raises:
        CheckpointError: it cannot be written; what was there stays.
    """
    try:
        content = _serialized(state)
    except RuntimeError as error:  # a fault of the GPU, which gives nothing away any more
        raise CheckpointError(f"{path}: the checkpoint cannot be written: {first_line(error)}") from error
    comment = _comment(run_id, hashlib.sha256(content).hexdigest())
    # The last two bytes of a zip file without a comment are the comment's length.
    signed = b"".join((content[:-2], len(comment).to_bytes(2, "little"), comment))
    try:
        write_atomically(path, lambda file: file.write(signed))
    except OSError as error:
        raise CheckpointError(f"{path}: the checkpoint cannot be written: {error.strerror or error}") from error


def write_tensors(state: dict[str, Any], path: Path) -> None:
    """Replace `path` by `state`, as `torch.save` writes it; what was there stays if that fails, by an `OSError`."""
    content = _serialized(state)
    write_atomically(path, lambda file: file.write(content))


def load_checkpoint(path: Path, run_id: str, load_state_dict: Callable[[dict[str, Any]], None]) -> None:
    """Hand what `save_checkpoint` wrote, on the CPU, to `load_state_dict`, which may raise where it does not fit.

    Raises:
        CheckpointError: the file cannot be read, is damaged, or is of another run or training.
    """
    try:
        _check_file(path, run_id)
        load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    except Exception as error:  # whatever a damaged file leads to
        raise CheckpointError(f"{path}: the checkpoint cannot be used ({first_line(error)})") from error


def _serialized(state: dict[str, Any]) -> memoryview:
    """Return what `torch.save` writes: in memory first, because torch does not say why it cannot write to a file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer()


def _comment(run_id: str, digest: str) -> bytes:
    return _COMMENT.format(run_id=run_id, digest=digest).encode()


def _check_file(path: Path, run_id: str) -> None:
    """Raise `ValueError` unless the file is as it was written, and by a run of that id as far as it says."""
    if not path.is_file():
        raise ValueError("no regular file")
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _MAX_COMMENT_BYTES))
        tail = file.read(_MAX_COMMENT_BYTES)
        if tail[-22:-18] == _END_OF_ZIP and tail.endswith(b"\0\0"):
            _check_members(path)
            return
        comment = tail[tail.rfind(_END_OF_ZIP) + 22 :]
        file.seek(0)
        digest = hashlib.sha256()
        num_left = size - len(comment) - 2
        while num_left > 0 and (block := file.read(min(num_left, 2**20))):
            digest.update(block)
            num_left -= len(block)
        digest.update(b"\0\0")
    if comment != _comment(run_id, digest.hexdigest()):
        is_foreign = comment.endswith(f" sha256 {digest.hexdigest()}".encode())
        raise ValueError("it is of another run" if is_foreign else "it is damaged")


def _check_members(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if archive.testzip() is not None:
            raise ValueError("it is damaged")
