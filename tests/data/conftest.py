"""A small stand-in for CIFAR-10 in each of its forms, and an empty machine to look for it on."""

import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from normbench.data import formats, locate, official
from normbench.data.formats import Arrays

NUM_TRAIN, NUM_TEST = 500, 100


@pytest.fixture(autouse=True)
def empty_machine(tmp_path_factory, monkeypatch):
    """No data in the environment, the current folder or the user cache; no proxy between tests and 127.0.0.1."""
    home = tmp_path_factory.mktemp("machine")
    monkeypatch.chdir(home)
    monkeypatch.setattr(locate.platformdirs, "user_cache_path", lambda name: home / "cache" / name)
    monkeypatch.setenv("no_proxy", "*")
    for variable in ("NORMBENCH_DATA_DIR", "NORMBENCH_CIFAR10_URL"):
        monkeypatch.delenv(variable, raising=False)
    return home


def random_arrays() -> Arrays:
    random = np.random.default_rng(0)
    return Arrays(
        random.integers(0, 256, (NUM_TRAIN, 32, 32, 3), dtype=np.uint8),
        random.permutation(np.arange(NUM_TRAIN) % 10),
        random.integers(0, 256, (NUM_TEST, 32, 32, 3), dtype=np.uint8),
        random.permutation(np.arange(NUM_TEST) % 10),
    )


@pytest.fixture
def small(monkeypatch) -> Arrays:
    """500 + 100 random images, with everything told to expect so many."""
    from normbench.data import cifar

    for module in (formats, cifar):
        monkeypatch.setattr(module, "NUM_TRAIN", NUM_TRAIN)
        monkeypatch.setattr(module, "NUM_TEST", NUM_TEST)
    monkeypatch.setattr(cifar, "NUM_VAL", 50)
    return random_arrays()


@pytest.fixture
def npz(small, tmp_path) -> Path:
    path = tmp_path / "npz" / "cifar10.npz"
    path.parent.mkdir()
    np.savez(path, **small._asdict())
    return path


class _OldPickler(pickle.Pickler):
    """Spells dtypes as the official files of 2009 do, with 0 and 1 for False and True."""

    def reducer_override(self, value):
        if isinstance(value, np.dtype):
            return np.dtype, ("u1", 0, 1), (3, "|", None, None, None, -1, -1, 0)
        return NotImplemented


@pytest.fixture
def batches(small, tmp_path, monkeypatch) -> Path:
    """An official-looking folder whose MD5s torchvision believes in."""
    folder = tmp_path / "official" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images = np.concatenate([small.x_train, small.x_test]).transpose(0, 3, 1, 2).reshape(-1, 3072)
    labels = np.concatenate([small.y_train, small.y_test]).tolist()
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    md5s = {}
    for name, rows in zip(names, np.split(np.arange(600), 6), strict=True):
        md5s[name] = _write_pickle(folder / name, {"data": images[rows], "labels": [labels[row] for row in rows]})
    meta_md5 = _write_pickle(folder / "batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5s[name]] for name in names[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5s["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": meta_md5})
    return folder


def _write_pickle(path: Path, value: object) -> str:
    buffer = io.BytesIO()
    _OldPickler(buffer, protocol=2).dump(value)
    path.write_bytes(buffer.getvalue())
    return hashlib.md5(buffer.getvalue()).hexdigest()


@pytest.fixture
def archive(batches, tmp_path, monkeypatch) -> Path:
    """The folder as a tar.gz, its size and MD5 taken for the official ones."""
    path = tmp_path / "archive" / "cifar-10-python.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        tar.add(batches, batches.name)
        evil = tarfile.TarInfo("../escaped.txt")
        tar.addfile(evil)
    monkeypatch.setitem(vars(official.CIFAR10), "archive_bytes", path.stat().st_size)
    monkeypatch.setitem(vars(official.CIFAR10), "archive_md5", hashlib.md5(path.read_bytes()).hexdigest())
    return path
