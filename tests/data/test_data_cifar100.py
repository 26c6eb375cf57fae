"""CIFAR-100: the readers of CIFAR-10 with a hundred fine labels, found, fetched and imported under its own names."""

import hashlib
import http.server
import io
import json
import pickle
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR100 as TorchvisionCIFAR100
from typer.testing import CliRunner

from normbench.cli.data import app
from normbench.data import load_dataset
from normbench.data.cifar import CIFAR100_CLASS_NAMES
from normbench.data.formats import Arrays, read_arrays
from normbench.data.official import CIFAR100
from normbench.errors import DataError

NUM_TRAIN, NUM_TEST = 500, 100


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def hundred(small) -> Arrays:
    random = np.random.default_rng(1)
    return Arrays(
        small.x_train, random.permutation(np.arange(NUM_TRAIN) % 100),
        small.x_test, random.permutation(np.arange(NUM_TEST) % 100),
    )  # fmt: skip


@pytest.fixture
def archive(hundred, tmp_path, monkeypatch) -> Path:
    """An official-looking archive whose sums are believed."""
    files = {}
    for name, images, labels in (("train", *hundred[:2]), ("test", *hundred[2:])):
        rows = images.transpose(0, 3, 1, 2).reshape(-1, 3072)
        files[name] = {"data": rows, "fine_labels": labels.tolist(), "coarse_labels": [0] * len(labels)}
    files["meta"] = {"fine_label_names": list(CIFAR100_CLASS_NAMES), "coarse_label_names": []}
    texts = {name: pickle.dumps(value, protocol=2) for name, value in files.items()}
    sums = {name: hashlib.md5(text).hexdigest() for name, text in texts.items()}
    monkeypatch.setattr(TorchvisionCIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(TorchvisionCIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(TorchvisionCIFAR100, "meta", {**TorchvisionCIFAR100.meta, "md5": sums["meta"]})
    path = tmp_path / "archive" / "cifar-100-python.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, text in texts.items():
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    monkeypatch.setitem(vars(CIFAR100), "archive_bytes", path.stat().st_size)
    monkeypatch.setitem(vars(CIFAR100), "archive_md5", hashlib.md5(path.read_bytes()).hexdigest())
    return path


def test_the_official_sums_are_torchvisions() -> None:
    assert CIFAR100.archive_md5 == TorchvisionCIFAR100.tgz_md5 == "eb9058c3a382ffc7106e4002c42a8d85"
    assert CIFAR100.url == TorchvisionCIFAR100.url
    assert CIFAR100.batches_folder == TorchvisionCIFAR100.base_folder
    assert len(CIFAR100_CLASS_NAMES) == len(set(CIFAR100_CLASS_NAMES)) == 100


def test_the_archive_gives_images_with_fine_labels(archive, hundred) -> None:
    for actual, expected in zip(read_arrays(archive, CIFAR100), hundred, strict=True):
        np.testing.assert_array_equal(actual, expected)
    with pytest.raises(DataError, match="bytes instead of"):  # of CIFAR-10's archive
        read_arrays(archive)


def test_fetched_imported_and_loaded(archive, hundred, empty_machine, monkeypatch, tmp_path) -> None:
    with pytest.raises(DataError, match=r"CIFAR-100 not found.*\n.*normbench data fetch --dataset cifar100"):
        load_dataset("cifar100")
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    serve = lambda *arguments: handler(*arguments, directory=archive.parent)  # noqa: E731
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("NORMBENCH_CIFAR100_URL", f"http://127.0.0.1:{server.server_port}/{archive.name}")
        result = run("fetch", "--dataset", "cifar100")
        server.shutdown()
        thread.join()
    target = empty_machine / "cache" / "normbench" / "cifar100.npz"
    assert result.stdout == f"CIFAR-100 is in {target}\n", result.exception
    dataset = load_dataset("cifar100", num_train=200)
    assert np.bincount(dataset.y_train).tolist() == 100 * [2]
    np.testing.assert_array_equal(dataset.y_test, hundred.y_test)
    report = json.loads(run("info", "--dataset", "cifar100", "--json").stdout)
    assert report["cifar100"]["train_per_class"]["whale"] == 5
    assert report["cifar100"]["is_genuine"] is None
    assert run("import", archive, "--dataset", "cifar100", "--data-dir", tmp_path / "other").exit_code == 0
    assert (tmp_path / "other" / "cifar100.npz").read_bytes() == target.read_bytes()
    assert json.loads(run("info", "--json").stdout)["cifar10"] is None
