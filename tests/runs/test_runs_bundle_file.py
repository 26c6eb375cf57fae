"""A bundle is read as a folder, and whatever a stranger made of one is a short error that writes nothing."""

import json
import os
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from zipped_bundle import FILES, MANIFEST, STATUS, complete, sums_of, write_zip

from normbench.errors import RunError
from normbench.runs import bundle_file
from normbench.runs.bundle_file import exists, find_bundle, open_bundle
from normbench.runs.records import find_runs, is_run, read_status
from normbench.runs.untrusted import read_bytes, read_json


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_zip(tmp_path / "a.nbz", complete(FILES))


def member(name: str, **values: Any) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    for key, value in values.items():
        setattr(info, key, value)
    return info


def with_member(path: Path, info: zipfile.ZipInfo, content: bytes = b"x") -> None:
    """Write a bundle with one more member, which the checksums list."""
    files = {"bundle.json": json.dumps(MANIFEST).encode(), **FILES}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(info, content)
        archive.writestr("SHA256SUMS", sums_of({**files, info.filename: content}))


# --- good ones -----------------------------------------------------------------------------------------------------


def test_a_path_through_a_bundle_reads_its_members(bundle: Path) -> None:
    assert read_bytes(bundle / "x" / "bn" / "config.yaml") == b"norm: bn\n"
    assert read_json(bundle / "x/bn/status.json")["state"] == "completed"
    assert exists(bundle / "x/bn/status.json")
    assert not exists(bundle / "x/bn/summary.json")
    assert is_run(bundle / "x/bn")
    assert find_runs(bundle, "**") == [bundle / "x/bn"] == find_runs(bundle / "x")
    assert find_runs(bundle) == [] == find_runs(bundle / "x/bn")
    with pytest.raises(RunError, match=r"summary\.json: cannot be read: no such file in the bundle"):
        read_bytes(bundle / "x/bn/summary.json")
    with pytest.raises(RunError, match="larger than the 3 bytes"):
        read_bytes(bundle / "x/bn/config.yaml", 3)


def test_what_lies_below_no_zip_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("PK no")
    assert find_bundle(tmp_path / "a.txt" / "b") is None
    assert find_bundle(tmp_path / "no" / "b") is None
    assert not exists(tmp_path / "a.txt" / "b")


def test_a_bundle_that_changed_is_read_anew(bundle: Path) -> None:
    assert read_bytes(bundle / "x/bn/config.yaml") == b"norm: bn\n"
    write_zip(bundle, complete({**FILES, "x/bn/config.yaml": b"norm: group_norm\n"}))
    assert read_bytes(bundle / "x/bn/config.yaml") == b"norm: group_norm\n"


def test_a_run_in_a_bundle_runs_nowhere(tmp_path: Path) -> None:
    running = {"state": "running", "started_at": "2026-01-01T00:00:00+00:00", "pid": os.getpid()}
    path = write_zip(tmp_path / "a.nbz", complete({**FILES, "x/bn/status.json": json.dumps(running).encode()}))
    assert read_status(path / "x/bn").state == "interrupted"


def test_a_member_that_lzma_compressed_is_read(tmp_path: Path) -> None:
    content = os.urandom(50_000).hex().encode()
    with_member(tmp_path / "a.nbz", member("x/steps.csv", compress_type=zipfile.ZIP_LZMA), content)
    assert read_bytes(tmp_path / "a.nbz" / "x/steps.csv") == content


# --- bad ones ------------------------------------------------------------------------------------------------------

SYMLINK, DEVICE, FOLDER = ((kind | 0o777) << 16 for kind in (stat.S_IFLNK, stat.S_IFCHR, stat.S_IFDIR))


@pytest.mark.parametrize(
    ("info", "problem"),
    [
        (member("../evil"), "no name of a file in a bundle"), (member("x/../../evil"), "no name"),
        (member("/etc/passwd"), "no name"), (member("x/./y"), "no name"), (member("x//y"), "no name"),
        (member("C:evil"), "no name"), (member("x/"), "no name"), (member("a b"), "no name"),
        (member("x/" + "a" * 300), "no name"), (member("x/\x1b[31m"), "no name"), (member("ä"), "no name"),
        (member("x/link", external_attr=SYMLINK), "x/link is a symbolic link"),
        (member("x/tty", external_attr=DEVICE), "x/tty is no regular file"),
        (member("x/dir", external_attr=FOLDER), "x/dir is no regular file"),
        (member("X/BN/status.json"), "two members of one name"),
        (member("x/bn/status.json/y"), "is a file and a folder"),
        (member("x/bz", compress_type=zipfile.ZIP_BZIP2), "compressed in another way"),
    ],
    ids=lambda value: value.filename if isinstance(value, zipfile.ZipInfo) else "",
)  # fmt: skip
def test_a_member_that_no_bundle_has_is_refused(tmp_path: Path, info: zipfile.ZipInfo, problem: str) -> None:
    with_member(tmp_path / "a.nbz", info)
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.raises(RunError, match=rf"a\.nbz: cannot be read: .*{problem}") as caught:
        read_bytes(tmp_path / "a.nbz" / "x/bn/config.yaml")
    assert str(caught.value).isprintable()
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_a_name_that_only_the_table_of_contents_escapes_is_refused(bundle: Path) -> None:
    """`zipfile` cuts a name at a null byte, and turns backslashes of Windows into slashes."""
    for old, new in ((b"x/bn/config.yaml", b"x/bn/con\x00ig.yaml"), (b"x/bn/config.yaml", b"x\\bn\\config.yaml")):
        path = bundle.with_name("b.nbz")
        path.write_bytes(bundle.read_bytes().replace(old, new))
        with pytest.raises(RunError, match="no name of a file in a bundle"):
            open_bundle(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    with_member(tmp_path / "a.nbz", member("x/bn/config.yaml"), b"norm: gn\n")
    with pytest.raises(RunError, match=r"two members of one name, x/bn/config\.yaml and x/bn/config\.yaml"):
        open_bundle(tmp_path / "a.nbz")


def test_an_encrypted_member_is_refused(bundle: Path) -> None:
    content = bytearray(bundle.read_bytes())
    start = content.index(b"PK\x01\x02")
    content[start + 8] |= 1
    bundle.write_bytes(content)
    with pytest.raises(RunError, match="is encrypted"):
        open_bundle(bundle)


def test_a_member_that_says_it_has_more_bytes_than_the_bundle_is_refused(bundle: Path) -> None:
    content = bytearray(bundle.read_bytes())
    start = content.rindex(b"PK\x01\x02")
    content[start + 20 : start + 24] = (2**31 - 1).to_bytes(4, "little")
    bundle.write_bytes(content)
    with pytest.raises(RunError, match="SHA256SUMS would have more bytes than the bundle"):
        open_bundle(bundle)


@pytest.mark.timeout(20)
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_member(tmp_path / "a.nbz", member("x/zeros", compress_type=zipfile.ZIP_DEFLATED), bytes(8 * 2**20))
    assert (tmp_path / "a.nbz").stat().st_size < 20_000
    with pytest.raises(RunError, match="x/zeros is more than 200 times as large as its compressed form"):
        open_bundle(tmp_path / "a.nbz")
    monkeypatch.setattr(bundle_file, "MAX_TOTAL_BYTES", 50)
    with pytest.raises(RunError, match="unpacked it has more than 50 bytes"):
        open_bundle(write_zip(tmp_path / "b.nbz", complete(FILES)))
    monkeypatch.setattr(bundle_file, "MAX_MEMBER_BYTES", 40)
    with pytest.raises(RunError, match="has more than 40 bytes"):
        open_bundle(write_zip(tmp_path / "c.nbz", complete(FILES)))
    monkeypatch.setattr(bundle_file, "MAX_BUNDLE_BYTES", 100)
    with pytest.raises(RunError, match="larger than the 100 bytes"):
        open_bundle(write_zip(tmp_path / "d.nbz", complete(FILES)))


LZMA = member("x/steps.csv", compress_type=zipfile.ZIP_LZMA)
DICTIONARY = 4 + 1  # bytes from the start of LZMA's header to the size of the dictionary


@pytest.mark.parametrize(
    ("place", "change", "problem"),
    [
        (DICTIONARY, struct.pack("<I", 2**32 - 1), "16,777,216 bytes of memory"),
        (DICTIONARY - 1, b"\xff", "cannot be read"),  # no properties that LZMA has
        (9, bytes(200), "cannot be read"),  # the data itself
    ],
)
def test_a_bad_member_of_lzma_is_refused(tmp_path: Path, place: int, change: bytes, problem: str) -> None:
    path = tmp_path / "a.nbz"
    with_member(path, LZMA, b"step,loss\n" + os.urandom(500))
    content = bytearray(path.read_bytes())
    start = content.index(b"x/steps.csv") + len("x/steps.csv") + place
    content[start : start + len(change)] = change
    path.write_bytes(content)
    with pytest.raises(RunError, match=rf"steps\.csv: .*{problem}"):
        read_bytes(path / "x/steps.csv")


def test_a_size_that_lies_is_found_out(tmp_path: Path) -> None:
    """A member that says it unpacks to one byte is not unpacked further, and its checksum fails."""
    path = tmp_path / "a.nbz"
    with_member(path, member("x/large", compress_type=zipfile.ZIP_DEFLATED), os.urandom(500_000))
    content = bytearray(path.read_bytes())
    name = content.rindex(b"x/large", 0, content.rindex(b"SHA256SUMS"))
    content[name - 22 : name - 18] = struct.pack("<I", 1)
    path.write_bytes(content)
    assert find_bundle(path) is not None
    with pytest.raises(RunError, match=r"x/large: cannot be read: Bad CRC-32"):
        read_bytes(path / "x/large")


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda files: files.pop("x/bn/config.yaml"), r"x/bn/config\.yaml is missing, though SHA256SUMS lists it"),
        (lambda files: files.update({"x/new": b""}), r"x/new is in it, though SHA256SUMS does not list it"),
        (lambda files: files.pop("SHA256SUMS"), "no such file in the bundle"),
        (lambda files: files.pop("bundle.json"), "no such file in the bundle"),
        (lambda files: files.update({"SHA256SUMS": b"abc  x\n"}), "no checksum"),
        (lambda files: files.update({"SHA256SUMS": files["SHA256SUMS"] * 2}), "one twice"),
        (lambda files: files.update({"SHA256SUMS": "ä".encode()}), "ascii"),
        (lambda files: files.update({"bundle.json": b"{"}), "property name"),
        (lambda files: files.update({"bundle.json": b"[" * 100_000}), "nested too deep"),
        (lambda files: files.update({"bundle.json": b"[]"}), "no bundle of NormBench"),
        (lambda files: files.update({"bundle.json": b'{"format": "normbench bundle"}'}), "no version"),
        (
            lambda files: files.update({"bundle.json": json.dumps({**MANIFEST, "version": 3}).encode()}),
            "a bundle of format 3, written by a later NormBench; this one reads up to format 2",
        ),
    ],
)
def test_what_is_missing_too_much_or_newer_is_told(tmp_path: Path, make: Callable[[Any], object], problem: str) -> None:
    files = complete(FILES)
    make(files)
    with pytest.raises(RunError, match=rf"a\.nbz.*: cannot be read: .*{problem}"):
        open_bundle(write_zip(tmp_path / "a.nbz", files))


def test_an_altered_member_is_not_read(tmp_path: Path) -> None:
    files = complete(FILES) | {"x/bn/status.json": STATUS.replace(b"2026", b"2025")}
    path = write_zip(tmp_path / "a.nbz", files)
    assert read_bytes(path / "x/bn/config.yaml") == b"norm: bn\n"
    with pytest.raises(RunError, match=r"x/bn/status\.json: cannot be read: it was altered"):
        read_status(path / "x/bn")


def test_other_bytes_than_a_bundles_are_refused(bundle: Path) -> None:
    good = bundle.read_bytes()
    end = good.index(b"PK\x05\x06")
    locator = b"PK\x06\x07" + bytes(16)
    for content, problem in (
        (good + b"x", "its end is missing"),
        (good[:-1], "its end is missing"),
        (good[:4], "its end is missing"),
        (b"PK\x03\x04" + good, "bytes before, between or behind"),
        (good[:end] + b"more" + good[end:], "bytes before, between or behind"),
        (good[:end] + locator + good[end:], "bytes before, between or behind|very large"),
    ):
        bundle.write_bytes(content)
        with pytest.raises(RunError, match=rf"a\.nbz: cannot be read: .*({problem})"):
            open_bundle(bundle)


@pytest.mark.timeout(20)
def test_a_pipe_or_a_link_in_a_loop_is_no_bundle(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nbz")
    (tmp_path / "loop.nbz").symlink_to("loop.nbz")
    for name in ("pipe.nbz", "loop.nbz", "none.nbz"):
        assert find_bundle(tmp_path / name / "x") is None
        with pytest.raises(RunError, match="cannot be read"):
            open_bundle(tmp_path / name)
