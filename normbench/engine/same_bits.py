"""The promise that a training gives the same bits again, and what breaks it, which shows while its steps warm up.

On CUDA `set_arithmetic` has torch take deterministic algorithms. For an operation that has none torch warns, and the
run then makes no promise. `normbench.runs.provenance.same_bits_on` says what the promise holds for.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from normbench.engine.step.state import StepSettings

_NONDETERMINISTIC = re.compile(r"(\S+) does not have a deterministic implementation")
_DETERMINISTIC_HERE = {
    "max_pool2d_with_indices_backward_cuda",  # our windows do not overlap, so that a gradient has one term
}
_ATTENTION = re.compile(r"(Flash|Memory Efficient) [Aa]ttention defaults to a non-deterministic algorithm")
"""It adds up blocks of at least 64 keys in any order, and our networks have 64 tokens: one block."""

_NO_CONTEXT = re.compile(r"Attempting to run cuBLAS, but there was no current CUDA context")
"""Torch then sets one: where the first thing that a thread of the backward pass does is a matrix product."""


@contextmanager
def nondeterministic_operations() -> Iterator[list[str]]:
    """Yield a list that names, after the ``with`` block, the operations in it that may give other bits each time.

    Torch's warnings about them are not shown, from now on, nor is one that says nothing to a user; all others are.
    """
    found: dict[str, None] = {}
    names: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield names
    for pattern in (_NONDETERMINISTIC, _ATTENTION):
        warnings.filterwarnings("ignore", message=pattern.pattern)
    for warning in caught:
        text = str(warning.message)
        if named := _NONDETERMINISTIC.match(text):
            found[named[1]] = None
        elif not (_ATTENTION.match(text) or _NO_CONTEXT.match(text)):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    names += [name for name in found if name not in _DETERMINISTIC_HERE]


def promise(settings: StepSettings, nondeterministic: Sequence[str], *, reproducible: bool) -> str:
    """Return ``yes`` or ``no: <reason>``, as `environment.json` records it, after the steps have warmed up."""
    if not reproducible:
        return "no: train.reproducible is false"
    if nondeterministic:
        return f"no: no deterministic implementation of {', '.join(nondeterministic)}"
    if settings.engine == "compile":
        return "no: not tried with compiled models"
    if settings.device == "mps" or torch.version.hip:
        return "no: not tried on such GPUs"
    return "yes"
