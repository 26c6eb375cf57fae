"""CIFAR-10 on disk: every form gives the same arrays, every damage a message that names the file and the way out."""

import pickle

import numpy as np
import pytest

from normbench.data import formats
from normbench.data.formats import Arrays, fingerprint, read_arrays, write_npz
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
        ({"y_test": lambda y: y // 2}, "0 to 20 images a class, not 10 of each"),
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
