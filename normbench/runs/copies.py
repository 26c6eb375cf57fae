"""Copies recorded runs from one folder or bundle into another folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from normbench.errors import RunError
from normbench.runs.atomic import write_atomically
from normbench.runs.bundle_file import exists
from normbench.runs.provenance import CHANGES, PACKAGES
from normbench.runs.record_files import RecordFile, facts_in, run_records
from normbench.runs.records import ENVIRONMENT_FILE, STATUS_FILE
from normbench.runs.untrusted import read_bytes


def read_records(run_folder: Path) -> dict[str, bytes]:
    """Return the records of a run by the names of their files, as they can be given away.

    Raises:
        RunError: one cannot be read.
    """
    return {record.name: record.content for record in run_records(run_folder)}


def write_run(records: Mapping[str, bytes], target: Path) -> None:
    """Write a run's records into its folder `target`; the status last, because with it the run is there.

    Raises:
        OSError: they cannot be written.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in sorted(records, key=lambda name: name == STATUS_FILE):
        _write(target / name, records[name])


def copy_provenance(records: Mapping[str, bytes], source: Path, target: Path) -> None:
    """Copy what a run's environment names by its hash from the experiment's folder `source` to that of `target`.

    Raises:
        OSError: it cannot be written.
        RunError: it cannot be read.
    """
    environment = facts_in(RecordFile(ENVIRONMENT_FILE, records.get(ENVIRONMENT_FILE, b"")))
    for text in (CHANGES, PACKAGES):
        digest = str(environment.get(text.key) or "")
        name = text.path(digest)
        if digest.isalnum() and exists(source / name) and not (target / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            _write(target / name, read_bytes(source / name))


def first_difference(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> str | None:
    """Return the name of a file in which two runs' records differ; None if they are equal."""
    return next((name for name in sorted({*one, *other}) if one.get(name) != other.get(name)), None)


def conflict(one: Path, other: Path, file: str) -> RunError:
    """Return the error over one run of which two different records are there."""
    return RunError(f"{one} and {other} record the same run, and their {file} differs: leave one of them out")


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content))
