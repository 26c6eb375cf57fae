"""CIFAR-10 on disk: every form gives the same arrays, every damage a message that names the file and the way out."""

import io
import os
import pickle
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable

import numpy as np
import pytest

from normbench.data import formats
from normbench.data.formats import Arrays, fingerprint, read_arrays, write_npz
from normbench.data.official import CIFAR10
from normbench.errors import DataError, FolderError


def assert_same(arrays, expected):
    for actual, wanted in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)
    assert [array.dtype for array in arrays] == [np.uint8, np.int64, np.uint8, np.int64]
    assert all(array.flags.c_contiguous for array in arrays)


@pytest.mark.parametrize("form", ["npz", "batches", "archive"])
def test_every_form_gives_the_same_arrays(form, small, request):
    assert_same(read_arrays(request.getfixturevalue(form)), small)


def test_archive_writes_nothing_outside_its_temporary_folder(archive, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(formats.tempfile, "tempdir", str(scratch))
    read_arrays(archive)
    assert list(scratch.iterdir()) == []
    assert not list(tmp_path.rglob("escaped.txt"))
    assert [path.name for path in archive.parent.iterdir()] == [archive.name]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64", "uint64"])
def test_npz_labels_may_be_any_integers_in_a_column(dtype, small, tmp_path):
    columns = small._replace(y_train=small.y_train[:, None].astype(dtype), y_test=small.y_test[:, None].astype(dtype))
    np.savez_compressed(tmp_path / "cifar10.npz", **columns._asdict())
    assert_same(read_arrays(tmp_path / "cifar10.npz"), small)


def test_written_npz_reads_back(small, tmp_path):
    path = write_npz(small, tmp_path / "new" / "folder")
    assert_same(read_arrays(path), small)
    assert [entry.name for entry in path.parent.iterdir()] == ["cifar10.npz"]


def test_a_written_npz_sweeps_what_killed_imports_left(small, tmp_path):
    (tmp_path / f".cifar10.npz.{2**22 + 1}.partial").touch()  # more than Linux gives
    write_npz(small, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["cifar10.npz"]


def test_failed_write_leaves_the_old_file_and_no_part(small, tmp_path, monkeypatch):
    path = write_npz(small, tmp_path)
    before = path.read_bytes()

    def full(file, **arrays):
        file.write(b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(DataError, match="disk is full"):
        write_npz(small, tmp_path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["cifar10.npz"]


def test_folder_that_cannot_be_written(small, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match="cannot be written"):
        write_npz(small, tmp_path / "file")


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.3, 0.9, 0.9999])
def test_truncated_npz(share, npz):
    content = npz.read_bytes()
    npz.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match="damaged") as caught:
        read_arrays(npz)
    assert str(npz) in str(caught.value)
    assert "normbench data fetch" in str(caught.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_flipped_byte_in_the_images_is_noticed(save, small, tmp_path):
    path = tmp_path / "cifar10.npz"
    save(path, **small._asdict())
    content = bytearray(path.read_bytes())
    for position in np.linspace(2_000, len(content) * 0.7, 12).astype(int):
        damaged = content.copy()
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged"):
            read_arrays(path)


def altered(small: Arrays, **changes):
    return {**small._asdict(), **{name: change(getattr(small, name)) for name, change in changes.items()}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": lambda x: x[:-1]}, r"x_train is uint8 \(499, 32, 32, 3\), not uint8 \(500, 32, 32, 3\)"),
        ({"x_test": lambda x: x.transpose(0, 3, 1, 2)}, r"x_test is uint8 \(100, 3, 32, 32\)"),
        ({"x_test": lambda x: x / 255}, "x_test is float64"),
        ({"y_train": lambda y: y[:-10]}, r"y_train is int64 \(490,\)"),
        ({"y_test": lambda y: y.astype(float)}, "y_test is float64"),
        ({"y_test": lambda y: y == 0}, "y_test is bool"),
        ({"y_train": lambda y: y + 1}, "labels 1 to 10, not 0 to 9"),
        ({"y_test": lambda y: y - 1}, "labels -1 to 8"),
        ({"y_test": lambda y: y // 2}, "0 to 20 images per class, not 10 of each"),
    ],
)
def test_npz_that_is_not_cifar10(changes, message, small, tmp_path):
    path = tmp_path / "cifar10.npz"
    np.savez(path, **altered(small, **changes))
    with pytest.raises(DataError, match=message) as caught:
        read_arrays(path)
    assert str(path) in str(caught.value)


def test_npz_without_a_key(small, tmp_path):
    np.savez(tmp_path / "cifar10.npz", x_train=small.x_train, y_train=small.y_train)
    with pytest.raises(DataError, match="no x_test, y_test in it"):
        read_arrays(tmp_path / "cifar10.npz")


class _Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


def test_pickles_are_never_loaded(small, tmp_path):
    path = tmp_path / "cifar10.npz"
    np.savez(path, allow_pickle=True, **{**small._asdict(), "y_test": np.array([_Bomb()] * 100, object)})
    with pytest.raises(DataError, match="y_test is object"):
        read_arrays(path)
    path.write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(DataError, match="damaged or not an npz of plain arrays"):
        read_arrays(path)


def test_npy_named_npz(small, tmp_path):
    with (tmp_path / "cifar10.npz").open("wb") as file:
        np.save(file, small.x_test)
    with pytest.raises(DataError, match="damaged or not an npz"):
        read_arrays(tmp_path / "cifar10.npz")


def test_batches_with_a_changed_byte_are_not_unpickled(batches):
    content = bytearray((batches / "data_batch_3").read_bytes())
    content[5000] ^= 1
    (batches / "data_batch_3").write_bytes(content)
    with pytest.raises(DataError, match="data_batch_3 has the wrong MD5"):
        read_arrays(batches)


@pytest.mark.parametrize("name", ["data_batch_5", "test_batch", "batches.meta"])
def test_incomplete_batches(name, batches):
    (batches / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        read_arrays(batches)


def test_archive_with_the_wrong_md5(archive):
    content = bytearray(archive.read_bytes())
    content[1000] ^= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match="MD5"):
        read_arrays(archive)


def test_truncated_archive(archive):
    content = archive.read_bytes()
    archive.write_bytes(content[:-7])
    with pytest.raises(DataError, match=f"{len(content) - 7:,} bytes instead of {len(content):,}"):
        read_arrays(archive)


def test_something_else(tmp_path):
    (tmp_path / "cifar.zip").touch()
    with pytest.raises(DataError, match="not a form of CIFAR-10"):
        read_arrays(tmp_path / "cifar.zip")


def test_fingerprint_ignores_order_but_not_labels_or_split(small):
    turned = Arrays(*(array[::-1] for array in small))
    assert fingerprint(turned) == fingerprint(small)
    swapped = small.y_train.copy()
    swapped[0] = (swapped[0] + 1) % 10
    assert fingerprint(small._replace(y_train=swapped)) != fingerprint(small)
    assert fingerprint(Arrays(small.x_test, small.y_test, small.x_train, small.y_train)) != fingerprint(small)


def npz_with(path, small, **members: bytes):
    """Write an npz of `small` with some of its members as these bytes."""
    np.savez(path, **small._asdict())
    with zipfile.ZipFile(path) as archive:
        contents = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**contents, **members}.items():
            archive.writestr(f"{name}.npy", content)


def npy(header: str, version=(1, 0)) -> bytes:
    size = len(header).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + size + header.encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy("{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000000,)}"), r"uint8 \(10000000000000,\)"),
        (npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({10**30},)}}"), r"x_test is uint8 \(10{30},\)"),
        (npy("{'descr': '|V2000000000', 'fortran_order': False, 'shape': (100, 32, 32, 3)}"), r"\|V2000000000"),
        (npy("{'descr': '|u1', 'fortran_order': False, 'shape': (100, 32, 32, 3)}"), "bytes, not 307,"),
        (npy("{'descr': '|u1', 'shape'"), "damaged"),
        (npy("(" * 3000), "damaged"),
        (npy("'\\q'"), "damaged"),
        (b"no header at all", "damaged"),
        (b"\x93NUMPY\x01\x00\xff\xff", "damaged"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "damaged"),
        (npy("{}", (3, 0)), "version"),
        (b"", "damaged"),
    ],
)
def test_headers_are_checked_before_memory_is_taken(content, message, small, tmp_path):
    npz_with(tmp_path / "cifar10.npz", small, x_test=content)
    with pytest.raises(DataError, match=message) as caught:
        read_arrays(tmp_path / "cifar10.npz")
    assert str(tmp_path / "cifar10.npz") in str(caught.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_npz_compressed_as_numpy_never_does(method, npz):
    with zipfile.ZipFile(npz) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(npz, "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    with pytest.raises(DataError, match="compressed by method"):
        read_arrays(npz)


def bomb_of_data(path):
    """Half a GB of zeros in half a MB, under a header that promises as much."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x_train.npy", "w", force_zip64=True) as file,
    ):
        header = io.BytesIO()
        shape = (174_762, 32, 32, 3)
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.write(header.getvalue())
        for _ in range(8):
            file.write(bytes(1 << 26))
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("y_train", "x_test", "y_test"):
            archive.writestr(f"{name}.npy", b"")


def bomb_of_a_header(path):
    """A header that says it has four GB, and has a quarter."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("x_train.npy", "w", force_zip64=True) as file:
            file.write(b"\x93NUMPY\x02\x00\xff\xff\xff\xff")
            for _ in range(4):
                file.write(b" " * (1 << 26))
        for name in ("y_train", "x_test", "y_test"):
            archive.writestr(f"{name}.npy", b"")


def bomb_of_names(path):
    """A table of contents of 30 MB."""
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(600):
            archive.writestr(f"{number:050000}", b"")


_READ = """
import resource, sys, time
from pathlib import Path
from normbench.data.formats import read_arrays
from normbench.errors import DataError

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

before, began = peak_mib(), time.process_time()
try:
    read_arrays(Path(sys.argv[1]))
except DataError as error:
    print(time.process_time() - began, peak_mib() - before, error)
"""


@pytest.mark.parametrize("make", [bomb_of_data, bomb_of_a_header, bomb_of_names])
def test_bombs_are_refused_at_once_and_without_memory(make: Callable, tmp_path):
    path = tmp_path / "cifar10.npz"
    make(path)
    result = subprocess.run([sys.executable, "-c", _READ, path], capture_output=True, text=True, timeout=60, check=True)
    seconds, mib, message = result.stdout.split(maxsplit=2)
    assert float(seconds) < 1
    assert int(mib) < 50
    assert message.startswith(str(path))


@pytest.mark.parametrize("name", ["cifar10.npz", "cifar-10-python.tar.gz"])
def test_pipes_and_devices_are_no_files(name, tmp_path):
    path = tmp_path / name
    os.mkfifo(path)
    with pytest.raises(DataError, match=r"not a regular file|0 bytes instead of"):
        read_arrays(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"not a regular file|0 bytes instead of"):
        read_arrays(path)


def test_a_batch_that_is_a_pipe_or_far_too_large(batches):
    with (batches / "data_batch_1").open("r+b") as file:
        file.truncate(1 << 40)
    began = time.process_time()
    with pytest.raises(DataError, match=r"data_batch_1 has 1,099,511,627,776 bytes"):
        read_arrays(batches)
    assert time.process_time() - began < 1
    (batches / "data_batch_1").unlink()
    os.mkfifo(batches / "data_batch_1")
    with pytest.raises(DataError, match="data_batch_1 is missing"):
        read_arrays(batches)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_members_of_an_archive_that_are_no_plain_files_are_not_followed(kind, archive, monkeypatch):
    """Behind the check of the archive's MD5, which no such archive passes."""
    with tarfile.open(archive, "w:gz") as tar:
        for target in ("data_batch_1", "../../etc/passwd"):
            member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
            member.type, member.linkname = kind, target
            tar.addfile(member)
    trust(archive, monkeypatch)
    with pytest.raises(DataError, match="data_batch_1 is missing"):
        read_arrays(archive)


def test_a_member_of_an_archive_that_is_far_too_large_is_not_unpacked(archive, monkeypatch):
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        member.size = 1 << 27
        tar.addfile(member, io.BytesIO(bytes(member.size)))
    trust(archive, monkeypatch)
    with pytest.raises(DataError, match="data_batch_1 in it has 134,217,728 bytes"):
        read_arrays(archive)


def trust(archive, monkeypatch):
    monkeypatch.setitem(vars(CIFAR10), "archive_bytes", archive.stat().st_size)
    monkeypatch.setitem(vars(CIFAR10), "archive_md5", formats.file_md5(archive))


def test_paths_too_long_for_the_system(tmp_path):
    from normbench.data.cifar import import_cifar

    with pytest.raises(DataError, match="no such file"):
        import_cifar(tmp_path / ("x" * 5000), tmp_path)
