"""Verifies a bundle: checksums, the rules of `RULE_SET`, every table made again from the records. Needs no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from math import isclose, isnan
from pathlib import Path
from typing import Any

from normbench.bundle.crate import CRATE_FILE
from normbench.bundle.description import CITATION_FILE, README_FILE, ZENODO_FILE
from normbench.bundle.rules import RULE_SET, RULES
from normbench.errors import NormBenchError, RunError
from normbench.report import report_texts
from normbench.report.formats import to_markdown
from normbench.report.page import Report
from normbench.runs.bundle_file import MANIFEST_FILE, SUMS_FILE, Bundle, open_bundle
from normbench.runs.provenance import source_sha256
from normbench.runs.record_files import id_of
from normbench.runs.records import REPORT_FOLDER, read_experiment

_TABLE_FILE = "table.json"
_TOP_FILES = frozenset({README_FILE, CITATION_FILE, ZENODO_FILE, CRATE_FILE, MANIFEST_FILE, SUMS_FILE})
_SAME_NUMBER = 1e-9
"""Relative: another version of NumPy or SciPy may differ in the last digits."""
_MAX_SHOWN = 20
_WORDS = {"caption", "cost_caption", "notes", "failures", "schema_version"}
"""What a table holds beside numbers and names."""
_DECIMAL = re.compile(r"-?\b\d+\.\d+(?:e[-+]\d{1,3})?\b")
_DRAWING = re.compile(r"<svg.*?</svg>\s*", re.DOTALL)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    problems: tuple[str, ...]
    """What is wrong, a line each."""
    said: str = ""
    """What was found, where it is more than that nothing is wrong."""

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass(frozen=True)
class Verification:
    """What verifying a bundle found."""

    file: Path
    result_id: str | None
    """The id as computed here; None where the bundle cannot be opened."""
    num_runs: int
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    """What is no fault and should be known."""

    @property
    def verified(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "schema_version": 1,
            "file": str(self.file),
            "rules": RULE_SET,
            "verified": self.verified,
            "result_id": self.result_id,
            "num_runs": self.num_runs,
            "checks": [asdict(check) | {"passed": check.passed} for check in self.checks],
            "notes": list(self.notes),
        }


def verify(path: Path) -> Verification:
    """Verify the bundle `path`; whatever is wrong with it is a problem of a check.

    Raises:
        RunError: there is no file of that name.
    """
    if not path.is_file():
        what = "a folder; `normbench bundle` makes a file of it" if path.is_dir() else "no such file"
        raise RunError(f"{path}: {what}")
    try:
        bundle = open_bundle(path)
        experiment = bundle_experiment(bundle)
        computed = id_of(bundle.read(f"{experiment.name}/{SUMS_FILE}").decode(errors="replace"))
        report = Report(read_experiment(experiment))
    except RunError as error:
        return Verification(path, None, 0, (Check("archive", (str(error),)),))
    checks = [
        _check("archive", lambda: _strangers(bundle, experiment.name)),
        _check("checksums", lambda: _checksums(bundle)),
        _check("result id", lambda: _result_id(bundle, computed)),
    ]
    checks += [_check(name, partial(rule, report)) for name, rule in RULES.items()]
    checks.append(_check("tables", lambda: _tables(bundle, experiment, report)))
    num_runs = len(report.experiment.runs) + len(report.experiment.probes)
    return Verification(path, computed, num_runs, tuple(checks), tuple(_notes(bundle, report)))


def bundle_experiment(bundle: Bundle) -> Path:
    """Return where the experiment lies in a bundle.

    Raises:
        RunError: `MANIFEST_FILE` names none.
    """
    name = bundle.manifest.get("experiment")
    if not isinstance(name, str) or f"{name}/{SUMS_FILE}" not in bundle.archive.NameToInfo:
        raise RunError(f"{bundle.path}: cannot be read: its manifest names no experiment that is in it")
    return bundle.path / name


def _check(name: str, look: Callable[[], Iterable[str]]) -> Check:
    try:
        problems = list(look())
    except NormBenchError as error:
        problems = [str(error)]
    left_out = len(problems) - _MAX_SHOWN
    return Check(name, tuple(problems[:_MAX_SHOWN] + ([f"and {left_out:,} more"] if left_out > 0 else [])))


def _strangers(bundle: Bundle, experiment: str) -> Iterator[str]:
    """Yield members that are neither of the experiment nor about the bundle, and so would be read unverified."""
    for name in bundle.names:
        if not name.startswith(f"{experiment}/") and name not in _TOP_FILES:
            yield f"{name}: no part of the experiment {experiment}"


def _checksums(bundle: Bundle) -> Iterator[str]:
    for name in bundle.names:
        try:
            bundle.read(name)
        except RunError as error:
            yield str(error)


def _result_id(bundle: Bundle, computed: str) -> Iterator[str]:
    if bundle.manifest.get("result_id") != computed:
        yield f"the manifest says {str(bundle.manifest.get('result_id'))[:64]}; the records give {computed}"


def _tables(bundle: Bundle, experiment: Path, report: Report) -> Iterator[str]:
    """Yield where what people read differs from what the records give.

    Texts are compared where this very program wrote them, and else the numbers of `_TABLE_FILE`, because another
    version may say the same in other words.
    """
    folder = f"{experiment.name}/{REPORT_FOLDER}"
    undrawn = {figure.name: "" for figure in report.figures}  # drawings are not compared, and take most of the time
    made = report_texts(report, is_beside_runs=True, svgs=undrawn)
    if _is_same_program(bundle):
        for name in made:
            recorded = bundle.read(f"{folder}/{name}").decode(errors="replace")
            if problem := _first_difference(_without_drawings(recorded), _without_drawings(made[name])):
                yield f"{folder}/{name}: {problem}"
        if to_markdown(report.tables) not in bundle.read(README_FILE).decode(errors="replace"):
            yield f"{README_FILE}: its tables are not those that the records give"
    table = bundle.read(f"{folder}/{_TABLE_FILE}")
    try:
        yield from _unequal_numbers(json.loads(table), json.loads(made[_TABLE_FILE]))
    except (ValueError, OverflowError, RecursionError):
        yield f"{folder}/{_TABLE_FILE}: no JSON"


def _is_same_program(bundle: Bundle) -> bool:
    return bundle.manifest.get("source_sha256") == source_sha256()


def _without_drawings(text: str) -> str:
    """Return a page without its figures, which depend on the version of matplotlib and of its fonts."""
    return _DRAWING.sub("", text)


def _first_difference(recorded: str, made: str) -> str | None:
    """Return the first line in which two texts say different things; None if there is none."""
    old_lines, new_lines = recorded.splitlines(), made.splitlines()
    for number, (old, new) in enumerate(zip(old_lines, new_lines, strict=False), 1):
        if not _says_the_same(old, new):
            return f"line {number} is not what the records give: {old.strip()[:120]}"
    return None if len(old_lines) == len(new_lines) else f"{len(old_lines)} lines; the records give {len(new_lines)}"


def _says_the_same(old: str, new: str) -> bool:
    """Return whether two lines are equal but for the last digits of numbers with a decimal point."""
    if old == new:
        return True
    numbers = list(zip(_DECIMAL.findall(old), _DECIMAL.findall(new), strict=False))
    same_words = _DECIMAL.sub("#", old) == _DECIMAL.sub("#", new)
    return same_words and all(isclose(float(one), float(other), rel_tol=_SAME_NUMBER) for one, other in numbers)


def _unequal_numbers(recorded: Any, made: Any, where: str = _TABLE_FILE) -> Iterator[str]:
    """Yield the numbers, words and rows in which two tables differ, as far as both have them."""
    if isinstance(recorded, dict) and isinstance(made, dict):
        for key in sorted(made.keys() & recorded.keys() - _WORDS):
            yield from _unequal_numbers(recorded[key], made[key], f"{where}/{key}")
    elif isinstance(recorded, list) and isinstance(made, list) and len(recorded) == len(made):
        for position, (old, new) in enumerate(zip(recorded, made, strict=True)):
            yield from _unequal_numbers(old, new, f"{where}/{position}")
    elif isinstance(recorded, int | float) and isinstance(made, int | float):
        is_nan_twice = isnan(recorded) and isnan(made)
        if not is_nan_twice and not isclose(recorded, made, rel_tol=_SAME_NUMBER):
            yield f"{where} is {recorded!r}; the records give {made!r}"
    elif recorded != made:
        yield f"{where} is {str(recorded)[:60]!r}; the records give {str(made)[:60]!r}"


def _notes(bundle: Bundle, report: Report) -> Iterator[str]:
    runs = [*report.experiment.runs, *report.experiment.probes]
    for state in ("diverged", "failed"):
        if count := sum(run.status.state == state for run in runs):
            yield f"{count} of {len(runs)} runs {state}"
    programs = {str(run.environment.get("source_sha256") or run.environment.get("commit")) for run in runs}
    if len(programs) > 1:
        yield f"runs of {len(programs)} versions of the source"
    if any(run.environment.get("dirty") for run in runs):
        yield "runs of a source with changes that were not committed"
    if len(report.tables) > 1:
        yield f"{len(report.tables)} tables: different devices or software, not mixed"
    if not _is_same_program(bundle):
        yield "another NormBench wrote it: numbers were compared, not the wording of tables and pages"
