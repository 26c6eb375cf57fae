"""Joins experiments, of folders and bundles, into one: the same run twice is one, or an error if its records differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from normbench.errors import FolderError, RunError
from normbench.runs.atomic import write_text_atomically
from normbench.runs.bundle_file import exists
from normbench.runs.copies import conflict, copy_provenance, first_difference, read_records, write_run
from normbench.runs.looks_file import LOOKS_FILE, RecordedLooks, read_looks
from normbench.runs.records import EXPERIMENT_FILE, find_runs, is_run
from normbench.runs.timing_file import TIMING_FILE, Timing, read_timing
from normbench.runs.tuning_file import TUNING_FILE, Tuning, read_tuning, write_tuning
from normbench.runs.untrusted import read_yaml
from normbench.runs.writer import folder_errors

_MAY_DIFFER = ("name", "norms", "seeds", "device", "baseline")
"""Settings in which experiments may differ that are parts of one."""


@dataclass(frozen=True)
class Merged:
    """What was joined."""

    folder: Path
    num_runs: int
    num_repeated: int
    """Runs that more than one source held, with equal records."""


def merge(sources: Sequence[Path], target: Path) -> Merged:
    """Write the runs of all `sources`, folders or bundles, into the new experiment's folder `target`.

    Raises:
        RunError: a source holds no runs or unreadable ones, two record one run differently, or their settings differ.
        FolderError: `target` is there already, or cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FolderError(f"{target}: there is something already; name a new folder or file")
    experiments = [folder for source in sources for folder in _experiments(source)]
    settings = _merged_settings(experiments, target.name)
    timing, looks, tuning = _merged_timing(experiments), _merged_looks(experiments), _merged_tuning(experiments)
    places: dict[str, Path] = {}
    num_repeated = 0
    with folder_errors(target):
        for experiment in experiments:
            for run in find_runs(experiment):
                records = read_records(run)
                if run.name in places:
                    if file := first_difference(read_records(places[run.name]), records):
                        raise conflict(places[run.name], run, file)
                    num_repeated += 1
                    continue
                places[run.name] = run
                write_run(records, target / run.name)
                copy_provenance(records, experiment, target)
        if settings:
            write_text_atomically(target / EXPERIMENT_FILE, yaml.safe_dump(settings, sort_keys=False))
        if timing.sessions:
            content = json.dumps(timing.model_dump(mode="json"), indent=2) + "\n"
            write_text_atomically(target / TIMING_FILE, content)
        if looks.looks:
            write_text_atomically(target / LOOKS_FILE, json.dumps(looks.model_dump(), indent=2) + "\n")
        if tuning is not None:
            write_tuning(target, tuning)
    return Merged(target, len(places), num_repeated)


def _experiments(source: Path) -> list[Path]:
    """Return the folders of all experiments at `source`."""
    if is_run(source):
        raise RunError(f"{source}: this is one run; name its experiment's folder")
    found = sorted({run.parent for run in find_runs(source, "**")})
    if not found:
        raise RunError(f"{source}: no runs there")
    return found


def _merged_settings(experiments: Sequence[Path], name: str) -> dict[str, Any]:
    """Return the settings of all experiments as those of one, with all their norms and seeds."""
    merged: dict[str, Any] = {}
    first = experiments[0]
    for folder in experiments:
        if not exists(folder / EXPERIMENT_FILE):
            continue
        settings = read_yaml(folder / EXPERIMENT_FILE)
        if not isinstance(settings, dict):
            raise RunError(f"{folder / EXPERIMENT_FILE}: cannot be read: not the settings of an experiment")
        if not merged:
            merged, first = dict(settings) | {"name": name}, folder
            continue
        for key in merged.keys() | settings.keys():
            if key not in _MAY_DIFFER and merged.get(key) != settings.get(key):
                raise RunError(_other_settings(first, folder, key, merged.get(key), settings.get(key)))
        merged["norms"] = _joined(merged.get("norms"), settings.get("norms"))
        merged["seeds"] = sorted(_joined(merged.get("seeds"), settings.get("seeds")))
    return merged


def _other_settings(first: Path, second: Path, key: str, one: Any, other: Any) -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        inner = next(name for name in {**one, **other} if one.get(name) != other.get(name))
        key, one, other = f"{key}.{inner}", one.get(inner), other.get(inner)
    return f"{first} and {second} are different experiments: {key} is {one!r} in the first and {other!r} in the second"


def _joined(one: Any, other: Any) -> list[Any]:
    found = [*(one if isinstance(one, list) else [])]
    return found + [value for value in (other if isinstance(other, list) else []) if value not in found]


def _merged_timing(experiments: Sequence[Path]) -> Timing:
    """Return all timing sessions; reports take those of a run's own machine only."""
    sessions = []
    for folder in experiments:
        sessions += [session for session in read_timing(folder).sessions if session not in sessions]
    return Timing(sessions=tuple(sessions))


def _merged_looks(experiments: Sequence[Path]) -> RecordedLooks:
    """Return all looks at the parts, earliest first; the rule for them where all parts have the same one."""
    recorded = [read_looks(folder) for folder in experiments]
    looks = {look.seeds: look for one in reversed(recorded) for look in one.looks}
    rules = {one.maximum for one in recorded}
    return RecordedLooks(
        maximum=rules.pop() if len(rules) == 1 else None,
        looks=tuple(sorted(looks.values(), key=lambda look: look.looked_at)),
    )


def _merged_tuning(experiments: Sequence[Path]) -> Tuning | None:
    """Return by which trials the parts' learning rates were chosen, if they were."""
    merged, first = None, experiments[0]
    for folder in experiments:
        if not exists(folder / TUNING_FILE):
            continue
        tuning = read_tuning(folder)
        if merged is not None and tuning != merged:
            raise RunError(f"{first} and {folder} are different experiments: their {TUNING_FILE} differs")
        merged, first = tuning, folder
    return merged
