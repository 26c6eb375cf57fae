"""Bundles made by hand with `zipfile`, good and bad, and bundles made of others."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

MANIFEST = {"format": "normbench bundle", "version": 1, "experiment": "x"}
STATUS = json.dumps({"state": "completed", "started_at": "2026-01-01T00:00:00+00:00", "pid": 1}).encode()
FILES = {"x/bn/status.json": STATUS, "x/bn/config.yaml": b"norm: bn\n", "x/SHA256SUMS": b""}
"""A bundle that can be opened, though its run has no results."""


def sums_of(files: Mapping[str, bytes]) -> bytes:
    return "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)).encode()


def complete(files: Mapping[str, bytes], manifest: Mapping[str, object] = MANIFEST) -> dict[str, bytes]:
    """Add what every bundle has."""
    found = {"bundle.json": json.dumps(manifest).encode(), **files}
    return {**found, "SHA256SUMS": sums_of(found)}


def write_zip(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def changed(bundle: Path, path: Path, changes: Mapping[str, bytes | None], *, with_sums: bool) -> Path:
    """Write `bundle` again with other members (None: without); `with_sums` also what the checksums then are."""
    files: dict[str, bytes] = {**contents(bundle), **{name: content or b"" for name, content in changes.items()}}
    for name, content in changes.items():
        if content is None:
            del files[name]
    if with_sums:
        experiment = json.loads(files["bundle.json"])["experiment"]
        listed = [line.partition("  ")[2] for line in files[f"{experiment}/SHA256SUMS"].decode().splitlines()]
        records = {name: files[f"{experiment}/{name}"] for name in listed if f"{experiment}/{name}" in files}
        files[f"{experiment}/SHA256SUMS"] = sums_of(records)
        manifest = json.loads(files["bundle.json"])
        manifest["result_id"] = hashlib.sha256(files[f"{experiment}/SHA256SUMS"]).hexdigest()
        files["bundle.json"] = json.dumps(manifest).encode()
        files["SHA256SUMS"] = sums_of({name: content for name, content in files.items() if name != "SHA256SUMS"})
    return write_zip(path, files)


def texts_in(bundle: Path) -> dict[str, str]:
    """Return the texts of the report in a bundle, by the names of their files."""
    files = {Path(name): content for name, content in contents(bundle).items()}
    suffixes = (".html", ".md", ".csv", ".tex", ".json")
    reports = {path: text for path, text in files.items() if path.parent.name == "report" and path.suffix in suffixes}
    return {path.name: text.decode() for path, text in reports.items()}
