"""The files of an experiment that are its records, as they can be given away, and the id that follows from them.

Pictures, tables, reports and weights are none: they are made of the records, or trained again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from normbench.errors import RunError
from normbench.runs.bundle_file import MAX_MEMBER_BYTES, Place, exists, find_bundle
from normbench.runs.evaluation_file import EVALUATION_FILE
from normbench.runs.looks_file import LOOKS_FILE
from normbench.runs.places import without_places
from normbench.runs.probe_files import ROWS, probe_file
from normbench.runs.provenance import CHANGES, PACKAGES
from normbench.runs.records import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    ERROR_FILE,
    EXPERIMENT_FILE,
    METRICS_FILE,
    OLD_STEPS_FILE,
    STATUS_FILE,
    STEPS_FILE,
    SUMMARY_FILE,
    find_runs,
)
from normbench.runs.regular_files import damaged
from normbench.runs.timing_file import TIMING_FILE
from normbench.runs.tuning_file import TUNING_FILE
from normbench.runs.untrusted import read_bytes
from normbench.tasks.task import SAMPLES_FILE

_OF_RUN = (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    ERROR_FILE,
    EVALUATION_FILE,
    METRICS_FILE,
    OLD_STEPS_FILE,
    SAMPLES_FILE,
    STATUS_FILE,
    STEPS_FILE,
    SUMMARY_FILE,
    *(probe_file(name) for name in ROWS),
)
_OF_EXPERIMENT = (EXPERIMENT_FILE, LOOKS_FILE, TIMING_FILE, TUNING_FILE)
_CONFIGS = (CONFIG_FILE, EXPERIMENT_FILE)


class RecordFile(NamedTuple):
    """One record."""

    name: str
    """Its path in the folder, with ``/``."""
    content: bytes
    """What it says, without absolute paths."""


def experiment_records(folder: Path) -> Iterator[RecordFile]:
    """Yield the records of the experiment in `folder`, which may be in a bundle, by name.

    Raises:
        RunError: one cannot be read, or a config names an absolute path, which cannot be taken out of it.
    """
    environments: list[Mapping[str, Any]] = []
    for name in _OF_EXPERIMENT:
        if exists(folder / name):
            yield _record(folder, name, find_bundle(folder))
    for run in find_runs(folder):
        for record in run_records(run):
            if record.name == ENVIRONMENT_FILE:
                environments.append(facts_in(record))
            yield RecordFile(f"{run.name}/{record.name}", record.content)
    yield from _provenance(folder, environments)


def run_records(folder: Path) -> Iterator[RecordFile]:
    """Yield the records of one run, by name.

    Raises:
        RunError: as `experiment_records` does.
    """
    place = find_bundle(folder)
    for name in sorted({*_OF_RUN, *_code_files(folder, place)}):
        if exists(folder / name):
            yield _record(folder, name, place)


def _code_files(folder: Path, place: Place | None) -> list[str]:
    """Return the names of the files of a user's own that a run was made of."""
    if place:
        names = [name.removeprefix(f"{place.name}/") for name in place.bundle.names if name.endswith(".py")]
        return [name for name in names if "/" not in name]
    return [path.name for path in folder.glob("*.py")]


def sums_of(files: Iterable[tuple[str, bytes]]) -> str:
    """Return the SHA-256 of files as ``sha256sum`` writes it, sorted by name."""
    lines = sorted((name, hashlib.sha256(content).hexdigest()) for name, content in files)
    return "".join(f"{digest}  {name}\n" for name, digest in lines)


def id_of(sums: str) -> str:
    """Return the id of the result whose records have these sums: the SHA-256 of that text."""
    return hashlib.sha256(sums.encode()).hexdigest()


def result_id(folder: Path) -> str | None:
    """Return the id of the result in an experiment's folder; None where it holds what cannot be given away.

    It is the SHA-256 of the SHA256SUMS in the experiment's folder of a bundle, so the same before and after bundling.
    """
    try:
        sums = sums_of(experiment_records(folder))
    except RunError:
        return None
    return id_of(sums) if sums else None


@dataclass(frozen=True)
class ResultId:
    """The id of the result in `folder`, an experiment's; to know it, all records are read and hashed."""

    folder: Path

    @cached_property
    def value(self) -> str | None:
        """What `result_id` returns, computed when it is first asked for."""
        return result_id(self.folder)


def facts_in(environment: RecordFile) -> Mapping[str, Any]:
    """Return what the record of a run's environment says; nothing where that cannot be read."""
    try:
        facts = json.loads(environment.content)
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _provenance(folder: Path, environments: Iterable[Mapping[str, Any]]) -> Iterator[RecordFile]:
    """Yield the texts that the runs' environments name by their hash, as far as they were kept."""
    for text in (CHANGES, PACKAGES):
        for digest in sorted({str(facts[text.key]) for facts in environments if facts.get(text.key)}):
            if digest.isalnum() and exists(folder / (name := text.path(digest))):
                content = read_bytes(folder / name, MAX_MEMBER_BYTES)
                if hashlib.sha256(content).hexdigest() != digest:
                    raise damaged(folder / name, f"not the text that {ENVIRONMENT_FILE} of its runs names")
                yield RecordFile(name, content)


def _record(folder: Path, name: str, place: Place | None) -> RecordFile:
    content = read_bytes(folder / name, MAX_MEMBER_BYTES)
    if place is not None:
        return RecordFile(name, content)  # its maker has done what follows, and nobody's bytes are changed later
    if name.endswith(".json"):
        content = _public_json(folder / name, content)
    elif name == ERROR_FILE:
        content = without_places(content.decode(errors="replace")).encode()
    elif name in _CONFIGS:
        _check_config(folder / name, content)
    return RecordFile(name, content)


def _public_json(path: Path, content: bytes) -> bytes:
    """Return the JSON without absolute paths; the same bytes where it has none."""
    try:
        facts: Any = json.loads(content)
        public = without_places(facts)
        if path.name == EVALUATION_FILE and isinstance(facts, dict) and "hits" in facts:
            public["hits"] = facts["hits"]  # base64, of which one in 64 begins with the slash of a path
    except (ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from None
    return content if public == facts else (json.dumps(public, indent=2) + "\n").encode()


def _check_config(path: Path, content: bytes) -> None:
    text = content.decode(errors="replace")
    if without_places(text) != text:
        raise RunError(
            f"{path}: names an absolute path, which says where this machine keeps things, and is part of the run's id: "
            "run it with a relative one to give the result away"
        )
