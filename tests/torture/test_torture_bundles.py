"""Whatever bytes a bundle is made of: what it said, or a short error, in time, with little memory, and nothing written.

`NORMBENCH_TORTURE=100000 pytest -m slow tests/torture/test_torture_bundles.py` tries so many; without it the slow test
tries some thousands, from a fresh seed each time, which a failure names.
"""

import json
import os
import random
import shutil
import struct
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from damaged_records import TEXTS, change_structure, flip_bits, record
from torture_limits import cpu_seconds_limited, memory_limited
from zipped_bundle import FILES, changed, complete, contents, write_zip

from normbench.bundle.description import Credit
from normbench.bundle.merge import merge
from normbench.bundle.verify import verify
from normbench.bundle.write import write_bundle
from normbench.errors import NormBenchError, RunError
from normbench.report.recorded_runs import load_experiments
from normbench.runs.bundle_file import open_bundle

NUM_SLOW = int(os.environ.get("NORMBENCH_TORTURE", "4000"))
MAX_SECONDS = 2.0
MEMORY_BYTES = 1 << 30
INTERESTING = [0, 1, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**27 + 1, 2**29 + 1]


def damage(content: bytes, draw: random.Random) -> bytes:
    """Return what a disk, a network or a stranger may make of a zip."""
    made = bytearray(content)
    kind = draw.choice(["bytes", "cut", "insert", "field", "field", "repeat", "swap"])
    if kind == "bytes":
        for _ in range(draw.choice([1, 1, 3, 30])):
            made[draw.randrange(len(made))] = draw.randrange(256)
    elif kind == "cut":
        start = draw.randrange(len(made))
        del made[start : draw.choice([len(made), start + draw.randrange(1, 50)])]
    elif kind == "insert":
        made[draw.randrange(len(made)) : 0] = draw.randbytes(draw.randrange(1, 50))
    elif kind == "field":  # a number of some header: a size, an offset, a method, a flag
        signature = draw.choice([b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"])
        starts = [i for i in range(len(made) - 30) if made.startswith(signature, i)] or [0]
        at = draw.choice(starts) + draw.randrange(4, 46)
        made[at : at + 4] = struct.pack("<I", draw.choice(INTERESTING))
    elif kind == "repeat":
        start = draw.randrange(len(made))
        made += made[start : start + draw.randrange(1, 500)]
    else:
        first, second = sorted(draw.sample(range(len(made)), 2))
        made = made[second:] + made[first:second] + made[:first]
    return bytes(made)


def read_all(path: Path) -> dict[str, bytes]:
    bundle = open_bundle(path)
    return {name: bundle.read(name) for name in bundle.names}


def check(folder: Path, content: bytes, good: dict[str, bytes], number: int) -> bool:
    """Read a damaged bundle; return whether it was refused."""
    path = folder / f"damaged{number}.nbz"
    path.write_bytes(content)
    refused = False
    with cpu_seconds_limited(MAX_SECONDS), memory_limited(MEMORY_BYTES):
        for read in (read_all, load_experiments):
            try:
                found = read(path)
            except RunError as error:
                refused = True
                text = str(error)
                assert len(text) < 1000, number
                assert text.isprintable(), number
            else:
                assert read is load_experiments or found == good, number
    path.unlink()
    return refused


def damage_many(folder: Path, first: int, count: int, method: int) -> int:
    path = write_zip(folder / "good.nbz", complete({**FILES, "x/bn/steps.csv": b"step,loss\n0,2.5\n" * 50}), method)
    good, content = read_all(path), path.read_bytes()
    refused = sum(
        check(folder, damage(content, random.Random(number)), good, number) for number in range(first, first + count)
    )
    assert os.listdir(folder) == ["good.nbz"]
    return refused


# --- records whose checksums are right -----------------------------------------------------------------------------


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle of two norms with two seeds each; its tables, which take long to draw, are none."""
    monkeypatch.setattr("normbench.bundle.write.write_report_of", lambda _, **__: [])
    monkeypatch.setattr("normbench.bundle.verify.report_texts", lambda _, **__: {"table.json": "{}", "report.html": ""})
    record(tmp_path / "recorded")
    write_bundle(tmp_path / "recorded" / "tiny", tmp_path / "good.nbz", Credit())
    return tmp_path / "good.nbz"


def worsen(files: Mapping[str, bytes], draw: random.Random) -> dict[str, bytes | None]:
    """Return one file of a bundle as nobody would have written it."""
    name = draw.choice([name for name in files if not name.endswith("ro-crate-metadata.json")])
    how = draw.choice(["structure", "structure", "structure", "text", "flip", "gone", "swap", "name"])
    if how == "structure" and name.endswith((".yaml", ".json", ".jsonl", ".csv")):
        with suppress(yaml.YAMLError):  # which cannot write every text
            return {name: change_structure(draw, name, files[name])}
    if how == "gone":
        return {name: None}
    if how == "swap":
        return {name: files[draw.choice(list(files))]}
    if how == "name":
        return {name: None, f"{name}{draw.choice(['.py', 'x', '/status.json'])}": files[name]}
    return {name: flip_bits(draw, files[name]) if how == "flip" else draw.choice(TEXTS)}


def worsen_many(packed: Path, first: int, count: int) -> int:
    files, num_verified = contents(packed), 0
    for number in range(first, first + count):
        path = packed.with_name(f"worse{number}.nbz")
        # Where no checksums can be made of it, the old ones stay.
        with suppress(KeyError, TypeError, ValueError, RecursionError):
            changed(packed, path, worsen(files, random.Random(number)), with_sums=True)
        if not path.exists():
            changed(packed, path, worsen(files, random.Random(number)), with_sums=False)
        with cpu_seconds_limited(10), memory_limited(2 * MEMORY_BYTES), warnings.catch_warnings():
            found = verify(path)
            text = json.dumps(found.as_json())
            assert len(text) < 100_000, number
            num_verified += all(check.passed for check in found.checks if check.name != "tables")
            with suppress(NormBenchError):
                merge([path], packed.with_name(f"merged{number}"))
        path.unlink()
        shutil.rmtree(packed.with_name(f"merged{number}"), ignore_errors=True)
    return num_verified


def test_whatever_records_say_verifying_ends(packed: Path) -> None:
    assert worsen_many(packed, 0, 12) < 10


@pytest.mark.slow
@pytest.mark.timeout(86_400)
def test_whatever_many_records_say_verifying_ends(packed: Path) -> None:
    worsen_many(packed, random.SystemRandom().randrange(10**9), max(1, NUM_SLOW // 10))


# --- bytes ---------------------------------------------------------------------------------------------------------


METHODS = pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA], ids=["deflate", "lzma"])


@METHODS
def test_damaged_bundles(tmp_path: Path, method: int) -> None:
    assert damage_many(tmp_path, 0, 75, method) > 50


@pytest.mark.slow
@pytest.mark.timeout(86_400)
@METHODS
def test_many_damaged_bundles(tmp_path: Path, method: int) -> None:
    damage_many(tmp_path, random.SystemRandom().randrange(10**9), NUM_SLOW, method)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_table_of_contents_of_a_hundred_thousand_members_is_refused_in_time(tmp_path: Path, method: int) -> None:
    """Such a table has 65,535 entries by its own count, and goes on."""
    header = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, method, 0, 0, 0, 2, 2, 6, 0, 0, 0, 0, 0, 0)
    entries = b"".join(header + b"%06d" % number for number in range(100_000))
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 65_535, 65_535, len(entries), 4, 0)
    path = tmp_path / "a.nbz"
    path.write_bytes(b"PK\x03\x04" + entries + end)
    with (
        cpu_seconds_limited(10),
        memory_limited(MEMORY_BYTES),
        pytest.raises(RunError, match="more than 65,535 members"),
    ):
        open_bundle(path)
