"""The exceptions a user can meet, each with its exit code.

    NormBenchError            1   something a user can understand and act on
    ├── ConfigError           2   a config file, flag or option is wrong
    │   └── UnknownNameError  2   a norm, model, dataset, ... that does not exist
    ├── EnvironmentProblem    3   the machine lacks something
    │   ├── DataError         3   the data set is missing, damaged or cannot be fetched
    │   ├── DeviceError       3   the requested device is not there
    │   └── FolderError       3   a folder cannot be written
    │       └── FolderBusyError   another process is writing it
    ├── DivergedError         1   a training loss is not finite
    ├── OutOfMemoryError      1   the device's memory does not hold a run
    ├── RunError              1   a recorded run cannot be read
    └── WorkerError           1   a training process died, or met a bug

The command line prints the message and exits with the code; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

MAX_MESSAGE_BYTES = 2000
_MAX_LINE_BYTES = 800

CONTROL_CHARACTER = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What steers a terminal, breaks or reorders a line, or cannot be written to a file."""


class NormBenchError(Exception):
    """A problem a user can understand and act on. It can be sent from one process to another, with its fields."""

    exit_code = 1

    def __str__(self) -> str:
        """Return the message, one problem a line: at most 2 kB, with control characters written out."""
        return _cut_lines([_cut_line(shown(line)) for line in super().__str__().split("\n")])

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to build the error again without calling its class, whose arguments may be others than `args`."""
        return _restore, (type(self), self.args, self.__dict__)


class ConfigError(NormBenchError, ValueError):
    """A config file, a flag or a layer option is wrong."""

    exit_code = 2


class UnknownNameError(ConfigError):
    """A name that is not in a registry; the message lists what is, nearest first."""

    def __init__(self, kind: str, name: object, allowed: Iterable[str]) -> None:
        self.kind = kind
        self.name = name
        self.allowed = tuple(allowed)
        super().__init__(f"unknown {kind} {name!r}{suggestion(name, self.allowed)}")


class EnvironmentProblem(NormBenchError):
    """The machine lacks something: data, a device, a writable folder."""

    exit_code = 3


class DataError(EnvironmentProblem):
    """The data set is missing, damaged or cannot be fetched."""


class DeviceError(EnvironmentProblem):
    """The requested device is not there, or has no memory left."""


class FolderError(EnvironmentProblem):
    """A folder cannot be written."""


class FolderBusyError(FolderError):
    """Another process is writing the folder."""


class DivergedError(NormBenchError):
    """A training loss is not finite."""


CUDA_OUT_OF_MEMORY = "CUDA error: out of memory"
"""How CUDA's error begins where it is not torch that allocates, as for a context, a graph or a kernel's code."""


class OutOfMemoryError(NormBenchError):
    """The device's memory does not hold a run.

    The batch size is never changed silently, because that changes a norm's result.
    """

    def __init__(self, device: str, batch_size: int, model: str, error: Exception) -> None:
        super().__init__(f"out of memory on {device} at batch size {batch_size} of {model}: {first_line(error)}")


class RunError(NormBenchError):
    """A recorded run cannot be read."""


class WorkerError(NormBenchError):
    """A training process died, or what it was asked to do raised what is no user's problem."""


def _restore(kind: type[NormBenchError], arguments: tuple[Any, ...], fields: Mapping[str, Any]) -> NormBenchError:
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(fields)
    return error


def shown(text: str) -> str:
    """Return `text` with its control characters written out as escapes, as `repr` does."""
    return CONTROL_CHARACTER.sub(lambda found: ascii(found[0])[1:-1], text)


def _cut_line(line: str) -> str:
    """Leave out the middle of a long line."""
    encoded = line.encode()
    if len(encoded) <= _MAX_LINE_BYTES:
        return line
    half = _MAX_LINE_BYTES // 2 - 30
    head, tail = (part.decode(errors="ignore") for part in (encoded[:half], encoded[-half:]))
    return f"{head} ... {len(line) - len(head) - len(tail):,} more characters ... {tail}"


def _cut_lines(lines: list[str]) -> str:
    """Join `lines`, without those before the last that make the message too long."""
    room = MAX_MESSAGE_BYTES - len(lines[-1].encode()) - 40
    kept = 0
    while kept < len(lines) - 1 and (room := room - len(lines[kept].encode()) - 1) >= 0:
        kept += 1
    left_out = len(lines) - 1 - kept
    return "\n".join([*lines[:kept], *([f"... {left_out:,} more problems"] if left_out else []), lines[-1]])


def suggestion(name: object, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'gn'? Allowed: bn, gn, ..."`` for a name that is not among `allowed`."""
    names = tuple(allowed)
    by_lower_case = {known.lower(): known for known in names}
    word = str(name).lower()
    nearest = difflib.get_close_matches(word, by_lower_case, n=1, cutoff=0.6)
    if not nearest and len(word) > 3:
        nearest = [known for known in by_lower_case if known.startswith(word)]
    hint = f"; did you mean {by_lower_case[nearest[0]]!r}?" if nearest else "."
    return f"{hint} Allowed: {', '.join(names)}"


def first_line(error: Exception) -> str:
    """Return what `error` says, in a line; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
