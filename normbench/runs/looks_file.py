"""``looks.json`` of an experiment: after how many seeds its verdicts were looked at. Needs no torch.

Who adds seeds because a verdict is open looks more than once, and is wrong more often than once: reports must know.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field

from normbench.runs.atomic import write_text_atomically
from normbench.runs.bundle_file import exists
from normbench.runs.untrusted import checked, read_json
from normbench.tasks.task import Row

LOOKS_FILE = "looks.json"


class Look(Row):
    """One report over an experiment's results."""

    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    """The seeds that were asked for."""
    looked_at: str
    """UTC, ISO 8601."""


class RecordedLooks(Row):
    """All looks, each at more seeds than the one before."""

    schema_version: int = 1
    maximum: Annotated[int, Field(ge=1)] | None = None
    """The most seeds, where they are added until verdicts are resolved by a rule that was set before; else None."""
    looks: tuple[Look, ...] = ()

    def with_look(self, seeds: Sequence[int], maximum: int | None) -> RecordedLooks:
        """Return the looks with one at `seeds`, unless these have been looked at already.

        The rule of the first look that had one stays: another in the middle would not keep the error.
        """
        ruled = self.model_copy(update={"maximum": self.maximum or maximum})
        if any(set(seeds) <= set(look.seeds) for look in self.looks):
            return ruled
        look = Look(seeds=tuple(seeds), looked_at=datetime.now(UTC).isoformat(timespec="seconds"))
        return ruled.model_copy(update={"looks": (*self.looks, look)})


def read_looks(folder: Path) -> RecordedLooks:
    """Return the looks at the experiment in `folder`; none where there is no looks.json.

    Raises:
        RunError: looks.json cannot be understood.
    """
    path = folder / LOOKS_FILE
    if not exists(path):
        return RecordedLooks()
    return checked(RecordedLooks, read_json(path), path)


def record_look(folder: Path, seeds: Sequence[int], maximum: int | None = None) -> None:
    """Add a look at `seeds` to the experiment's looks.json; one that cannot be read is left as it is.

    Raises:
        OSError: the file cannot be written.
        RunError: looks.json cannot be understood.
    """
    before = read_looks(folder)
    after = before.with_look(seeds, maximum)
    if after != before:
        write_text_atomically(folder / LOOKS_FILE, json.dumps(after.model_dump(), indent=2) + "\n")
