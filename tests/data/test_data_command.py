"""``normbench data`` as a user meets it."""

import http.server
import json
import subprocess
import sys
import threading

import pytest
from typer.testing import CliRunner

from normbench.cli.data import app
from normbench.errors import DataError


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_info_names_every_place_and_measures_what_it_finds(npz, monkeypatch):
    monkeypatch.setenv("NORMBENCH_DATA_DIR", str(npz.parent))
    result = run("info")
    assert result.exit_code == 0
    for text in (
        str(npz),
        "500 training, 100 test",
        "50 training, 10 test",
        "airplane",
        "genuine",
        "NO:",
        "user cache",
    ):
        assert text in result.stdout

    report = json.loads(run("info", "--json").stdout)
    assert [place["found"] for place in report["places"]] == ["cifar10.npz", None, None]
    assert [place["searched"] for place in report["places"]] == [True, False, False]
    assert report["cifar10"]["train_per_class"]["truck"] == 50
    assert report["cifar10"]["is_genuine"] is False


def test_info_without_data_still_names_the_places(empty_machine):
    result = run("info")
    assert isinstance(result.exception, DataError)
    assert str(empty_machine / "cache" / "normbench") in result.stdout
    assert json.loads(run("info", "--json").stdout)["cifar10"] is None


@pytest.mark.parametrize("form", ["npz", "batches", "archive"])
def test_import_then_info(form, request, empty_machine):
    result = run("import", request.getfixturevalue(form))
    assert result.exit_code == 0, result.exception
    path = empty_machine / "cache" / "normbench" / "cifar10.npz"
    assert result.stdout == f"CIFAR-10 is in {path}\n"
    assert str(path) in run("info").stdout


def test_fetch_unpacks_what_it_downloads(archive, empty_machine, monkeypatch, tmp_path):
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    serve = lambda *arguments: handler(*arguments, directory=archive.parent)  # noqa: E731
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("NORMBENCH_CIFAR10_URL", f"http://127.0.0.1:{server.server_port}/{archive.name}")
        result = run("fetch", "--data-dir", tmp_path / "target")
        server.shutdown()
        thread.join()
    assert result.exit_code == 0, result.exception
    assert result.stdout == f"CIFAR-10 is in {tmp_path / 'target' / 'cifar10.npz'}\n"
    assert "MB" in result.stderr
    assert [path.name for path in (tmp_path / "target").iterdir() if path.name[0] != "."] == ["cifar10.npz"]
    assert "there already" in run("fetch", "--data-dir", tmp_path / "target").stdout


def test_listing_data_sets_needs_neither_numpy_nor_torch():
    code = "import sys, normbench.data, normbench.cli.data; sys.exit(bool({'numpy', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
