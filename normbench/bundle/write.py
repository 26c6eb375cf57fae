"""Writes a bundle: the same records, credit and program give the same bytes."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from normbench.bundle.crate import CRATE_FILE, FileFacts, crate
from normbench.bundle.description import (
    CITATION_FILE,
    README_FILE,
    ZENODO_FILE,
    Credit,
    Description,
    citation,
    readme,
    zenodo,
)
from normbench.errors import FolderError, RunError
from normbench.report import write_report_of
from normbench.report.drawing import Draw, draw_figures, draw_for_page
from normbench.report.page import Report
from normbench.runs.atomic import write_atomically
from normbench.runs.bundle_file import FORMAT, MANIFEST_FILE, SUMS_FILE, open_bundle
from normbench.runs.provenance import source_sha256
from normbench.runs.record_files import experiment_records, id_of, sums_of
from normbench.runs.records import ExperimentRecord, read_experiment
from normbench.runs.writer import folder_errors
from normbench.version import __version__

_NO_DATE = (1980, 1, 1, 0, 0, 0)
"""The first that a zip can say."""
_FILE_MODE = 0o100644 << 16
_LZMA_FROM_BYTES = 16 * 2**10
"""Smaller members are not made smaller by LZMA than by Deflate."""


@dataclass(frozen=True)
class WrittenBundle:
    """What became of a bundle."""

    path: Path
    result_id: str
    num_runs: int
    num_bytes: int


def write_bundle(folder: Path, path: Path, credit: Credit, *, is_small: bool = False) -> WrittenBundle:
    """Write the experiment recorded in `folder` to the bundle `path`, which replaces one that is there.

    With `is_small`, the files of figures are left out, which the report's page has and `normbench report` draws again,
    and large members are compressed by LZMA, which fewer programs unpack. The records and the id are the same.

    Raises:
        RunError: a run cannot be read or is still running, a config names an absolute path, or there is too much.
        FolderError: the bundle cannot be written, or `path` is another file than a bundle.
    """
    experiment = read_experiment(folder)
    _check(experiment)
    _check_target(path)
    with TemporaryDirectory(prefix="normbench-") as temporary:
        root = Path(temporary) / "bundle"
        description = _stage(folder, root, credit, draw_for_page if is_small else draw_figures)
        _write_description(root, description, 2 if is_small else 1)
        packed = Path(temporary) / path.name
        _pack(root, packed, is_small=is_small)
        open_bundle(packed)  # whatever cannot be read back is not handed out
        with folder_errors(path), packed.open("rb") as file:
            write_atomically(path, lambda target: shutil.copyfileobj(file, target))
    return WrittenBundle(path, description.result_id, len(description.runs), path.stat().st_size)


def experiment_name(folder: Path) -> str:
    """Return what the experiment in `folder` is called in a bundle: the folder's name, of characters that are safe."""
    name = re.sub(r"[^A-Za-z0-9._+-]+", "_", folder.resolve().name).strip(".")
    return name or "experiment"


def _check(experiment: ExperimentRecord) -> None:
    if experiment.unreadable:
        raise RunError(f"{experiment.folder}: a bundle holds what can be read only: {experiment.unreadable[0]}")
    running = [run.run_id for run in (*experiment.runs, *experiment.probes) if run.status.state == "running"]
    if running:
        raise RunError(f"{experiment.folder}: {running[0]} is still running; a bundle is made of runs that ended")


def _check_target(path: Path) -> None:
    if not path.exists():
        return
    try:
        open_bundle(path)
    except RunError:
        raise FolderError(f"{path}: there is something that is no bundle, which is not written over") from None


def _stage(folder: Path, root: Path, credit: Credit, draw: Draw) -> Description:
    """Write records and report into `root`, and return what the bundle is about."""
    staged = root / experiment_name(folder)
    sums = sums_of(_copied(experiment_records(folder), staged))
    (staged / SUMS_FILE).write_text(sums, encoding="ascii", newline="\n")
    report = Report(read_experiment(staged))
    write_report_of(report, draw=draw)
    return Description(staged.name, id_of(sums), report, credit)


def _copied(files: Iterable[tuple[str, bytes]], target: Path) -> Iterable[tuple[str, bytes]]:
    for name, content in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)
        yield name, content


def _write_description(root: Path, description: Description, version: int) -> None:
    """Write everything in the bundle that is no record and no report."""
    manifest = {
        "format": FORMAT,
        "version": version,
        "experiment": description.experiment,
        "result_id": description.result_id,
        "normbench": __version__,
        "source_sha256": source_sha256(),
    }
    texts = {
        MANIFEST_FILE: json.dumps(manifest, indent=2) + "\n",
        README_FILE: readme(description),
        CITATION_FILE: citation(description),
        ZENODO_FILE: zenodo(description),
    }
    for name, text in texts.items():
        (root / name).write_text(text, encoding="utf-8", newline="\n")
    facts = {name: _facts((root / name).read_bytes()) for name in _files(root)}
    (root / CRATE_FILE).write_text(crate(description, facts), encoding="utf-8", newline="\n")
    sums = sums_of((name, (root / name).read_bytes()) for name in _files(root))
    (root / SUMS_FILE).write_text(sums, encoding="ascii", newline="\n")


def _facts(content: bytes) -> FileFacts:
    return FileFacts(len(content), hashlib.sha256(content).hexdigest())


def _files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def _pack(root: Path, path: Path, *, is_small: bool) -> None:
    """Write the files under `root` into a zip that says nothing of when and where it was made."""
    try:
        with zipfile.ZipFile(path, "w", allowZip64=False) as archive:
            for name in _files(root):
                entry = zipfile.ZipInfo(name, _NO_DATE)
                entry.create_system = 3  # Unix, wherever it is made
                entry.external_attr = _FILE_MODE
                content = (root / name).read_bytes()
                lzma = is_small and len(content) >= _LZMA_FROM_BYTES
                archive.writestr(entry, content, zipfile.ZIP_LZMA if lzma else zipfile.ZIP_DEFLATED, 9)
    except zipfile.LargeZipFile as error:
        raise RunError(f"too much for one bundle: {error}") from None
