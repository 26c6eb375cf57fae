"""Downloads from a server on 127.0.0.1 that stops, lies, or is not there."""

import hashlib
import http.server
import io
import os
import socket
import threading
import urllib.request
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from normbench.data import fetch as fetch_module
from normbench.data.fetch import TimeLimits, fetch_cifar
from normbench.data.official import CIFAR10
from normbench.errors import ConfigError, DataError, FolderError

CONTENT = np.random.default_rng(0).bytes(300_000)
NAME = "cifar-10-python.tar.gz"


@dataclass
class Script:
    """What the server does, and what it was asked."""

    content: bytes = CONTENT
    knows_ranges: bool = True
    stop_after: list[int] = field(default_factory=list)
    """Bytes after which each connection in turn is cut; those that follow are not."""
    statuses: list[int] = field(default_factory=list)
    """Errors that answer each connection in turn."""
    hides_length: bool = False
    refuses_ranges: bool = False
    redirects: list[str] = field(default_factory=list)
    """Targets that answer each connection in turn."""
    ranges: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server():
    script = Script()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers["Range"]
            script.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and script.knows_ranges else 0
            if script.statuses and (status := script.statuses.pop(0)):
                return self.send_error(status)
            if script.redirects:
                self.send_response(302)
                self.send_header("Location", script.redirects.pop(0))
                return self.end_headers()
            if asked and script.refuses_ranges:
                return self.send_error(416)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(script.content) - 1}/{len(script.content)}")
            if not script.hides_length:
                self.send_header("Content-Length", str(len(script.content) - start))
            self.end_headers()
            stop = script.stop_after.pop(0) if script.stop_after else len(script.content)
            self.wfile.write(script.content[start : start + stop])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        script.url = f"http://127.0.0.1:{httpd.server_port}/{NAME}"
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield script
        httpd.shutdown()
        thread.join()


def fetch(url, folder, on_progress=lambda progress: None, content=CONTENT, **options):
    limits = TimeLimits(**{"silence_seconds": 5, "pause_seconds": 0, **options})
    md5 = hashlib.md5(content).hexdigest()
    official = replace(CIFAR10, archive_bytes=len(content), archive_md5=md5)
    return fetch_cifar(url, folder, on_progress, official=official, limits=limits)


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_download_makes_the_folder_and_reports_progress(server, tmp_path):
    seen = []
    path = fetch(server.url, tmp_path / "new" / "folder", seen.append)
    assert path.read_bytes() == CONTENT
    assert visible(path.parent) == [NAME]
    assert seen[-1].done_bytes == seen[-1].total_bytes == len(CONTENT)
    assert [step.done_bytes for step in seen] == sorted(step.done_bytes for step in seen)
    assert server.ranges == [None]


def test_a_broken_transfer_is_continued_where_it_stopped(server, tmp_path):
    server.stop_after = [100_000, 50_000]
    seen = []
    assert fetch(server.url, tmp_path, seen.append).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert "broke at 100,000 of 300,000 bytes; trying again" in "".join(step.note for step in seen)


def test_the_partial_file_of_an_earlier_download_is_continued(server, tmp_path):
    (tmp_path / f"{NAME}.partial").write_bytes(CONTENT[:1234])
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1234-"]


def test_a_complete_partial_file_needs_no_connection(tmp_path):
    (tmp_path / f"{NAME}.partial").write_bytes(CONTENT)
    assert fetch("http://127.0.0.1:9/x", tmp_path).read_bytes() == CONTENT


def test_an_archive_that_is_there_is_kept(server, tmp_path):
    (tmp_path / NAME).write_bytes(CONTENT)
    fetch(server.url, tmp_path)
    assert server.ranges == []


def test_a_damaged_archive_that_is_there_is_replaced(server, tmp_path):
    (tmp_path / NAME).write_bytes(CONTENT[:-1] + b"?")
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.knows_ranges = False
    server.stop_after = [200_000]
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=200000-"]


def test_a_server_that_refuses_the_range_starts_over(server, tmp_path):
    server.refuses_ranges = True
    (tmp_path / f"{NAME}.partial").write_bytes(CONTENT[:1234])
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=1234-", None]


def test_a_server_that_always_stops_at_the_same_byte_is_given_up_and_the_part_is_kept(server, tmp_path):
    server.knows_ranges = False
    server.stop_after = [1000] * 20
    with pytest.raises(DataError, match=r"broke at 1,000 of 300,000 bytes\. 1,000 of 300,000 bytes are kept"):
        fetch(server.url, tmp_path)
    assert len(server.ranges) == 1 + fetch_module.MAX_FRUITLESS_ATTEMPTS
    assert visible(tmp_path) == [f"{NAME}.partial"]


def test_server_errors_are_tried_again_and_refusals_are_not(server, tmp_path):
    server.statuses = [503, 500]
    assert fetch(server.url, tmp_path / "a").read_bytes() == CONTENT
    server.statuses = [404] * 9
    with pytest.raises(DataError, match="the server says 404 Not Found") as caught:
        fetch(server.url, tmp_path / "b")
    assert len(server.statuses) == 8
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("hides_length", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>not here</html>", "not the CIFAR-10 archive: 21 bytes instead of 300,000"),
        (CONTENT + b"!", "300,001 bytes instead of 300,000"),
        (CONTENT[:-1] + b"?", "not the CIFAR-10 archive: its MD5 is"),
    ],
)
def test_wrong_content_is_named_and_deleted(server, tmp_path, content, message, hides_length):
    server.content, server.hides_length = content, hides_length
    if hides_length:  # then too much shows only when it has come, and too little looks like a broken connection
        message = {21: "broke at 21 of 300,000", 300_001: "more than 300,000 bytes"}.get(len(content), message)
    with pytest.raises(DataError, match=message) as caught:
        fetch(server.url, tmp_path)
    assert visible(tmp_path) == ([f"{NAME}.partial"] if "broke" in message else [])
    assert "normbench data import PATH" in str(caught.value)


def test_a_stale_partial_file_of_something_else_is_deleted(server, tmp_path):
    (tmp_path / f"{NAME}.partial").write_bytes(b"x" * 1000)
    with pytest.raises(DataError, match="its MD5 is"):
        fetch(server.url, tmp_path)
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    (tmp_path / NAME).unlink()
    (tmp_path / f"{NAME}.partial").write_bytes(b"x" * 400_000)
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT


def test_refused_connection_names_the_ways_out(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: refuses
        with pytest.raises(DataError, match=r"no connection.*refused") as caught:
            fetch(f"http://127.0.0.1:{taken.getsockname()[1]}/x", tmp_path)
    assert caught.value.exit_code == 3
    for way in ("--url URL", "NORMBENCH_CIFAR10_URL", "data import PATH", "dataset: synthetic"):
        assert way in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 5


def test_a_silent_server_times_out(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_module, "MAX_FRUITLESS_ATTEMPTS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DataError, match="timed out"):
        fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/x", tmp_path, silence_seconds=0.1)


@pytest.mark.parametrize("url", ["ftp://host/x", "file:///etc/passwd", "cifar.tar.gz", "http://"])
def test_only_http_and_https(url, tmp_path):
    with pytest.raises(ConfigError, match="http:// or https://"):
        fetch(url, tmp_path)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://[::1", "malformed"),
        ("http://[zz]/", "malformed"),
        ("http://a..b/", "malformed"),
        ("http://.:1/", "malformed"),
        (f"http://{'a' * 70}/", "malformed"),
        ("http://127.0.0.1:99999/", "malformed"),
        ("http://127.0.0.1:x/", "malformed"),
        ("http://127.0.0.1:1/é", "%XX"),
        ("http://127.0.0.1:1/a b", "%XX"),
        ("http://127.0.0.1:1/a\nb", "%XX"),
        ("http://bücher.example/", "xn--"),
        ("http://127.0.0.1:0/", "http:// or https://"),
    ],
)
def test_malformed_addresses_are_located(url, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        fetch(url, tmp_path)
    assert str(caught.value).startswith("--url ")


SECRETS = [
    "http://mary:hunter2@127.0.0.1:1/x",
    "http://mary:hunter2@[::1",
    "http://mary:hun/ter2@127.0.0.1/x",
    "http://mary:hun?ter2@127.0.0.1/x",
    "http:mary:hunter2@127.0.0.1",
    "mary:hunter2@127.0.0.1/x",
    "https://mary:hunter2@a..b/x",
]


@pytest.mark.parametrize("url", SECRETS)
def test_no_user_or_password_is_shown(url, tmp_path):
    with pytest.raises(ConfigError) as caught:
        fetch(url, tmp_path)
    for secret in ("mary", "hun", "ter2"):
        assert secret not in str(caught.value)


def test_the_query_of_an_address_is_not_shown(tmp_path):
    with pytest.raises(DataError) as caught:
        fetch("http://127.0.0.1:9/x?token=hunter2#hunter2", tmp_path)
    assert "http://127.0.0.1:9/x: cannot" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("ftp://127.0.0.1:9/x", "http:// or https://"),
        ("file:///etc/passwd", "302 Found, which cannot be followed"),
        ("http://[::1", "malformed address"),
        ("http://a..b/", "malformed"),
        ("http://mary:hunter2@127.0.0.1/x", "user or password"),
        ("", "302 Found, which cannot be followed"),
        ("/cifar-10-python.tar.gz", "302 Found, which cannot be followed"),  # in a circle
    ],
)
def test_redirects_that_are_not_followed(target, message, server, tmp_path):
    server.redirects = [target] * 20
    with pytest.raises(DataError, match=message) as caught:
        fetch(server.url, tmp_path)
    assert "hunter2" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_redirect_is_followed(server, tmp_path):
    server.redirects = ["/elsewhere"]
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("before", "after", "is_followed"),
    [
        ("http", "http", True),
        ("http", "https", True),
        ("https", "https", True),
        ("https", "http", False),
        ("https", "ftp", False),
    ],
)
def test_https_is_not_left(before, after, is_followed):
    request = urllib.request.Request(f"{before}://127.0.0.1/x")
    arguments = (request, io.BytesIO(), 302, "Found", {}, f"{after}://127.0.0.1/y")
    if is_followed:
        assert fetch_module._Redirects().redirect_request(*arguments).full_url == f"{after}://127.0.0.1/y"
    else:
        with pytest.raises(DataError, match="https may redirect to https only"):
            fetch_module._Redirects().redirect_request(*arguments)


def test_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match="cannot be written"):
        fetch(server.url, tmp_path / "file")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_full_disk(server, tmp_path):
    (tmp_path / f"{NAME}.partial").symlink_to("/dev/full")
    with pytest.raises(DataError, match="disk is full"):
        fetch(server.url, tmp_path)


def test_two_downloads_at_once_make_one(server, tmp_path):
    first_bytes, go_on = threading.Event(), threading.Event()
    notes, results = [], []

    def slow(progress):
        first_bytes.set()
        assert go_on.wait(10)

    def noted(progress):
        notes.append(progress.note)
        go_on.set()

    first = threading.Thread(target=lambda: results.append(fetch(server.url, tmp_path, slow)))
    first.start()
    assert first_bytes.wait(10)
    results.append(fetch(server.url, tmp_path, noted))
    first.join()
    assert notes == ["waiting for another download into this folder"]
    assert server.ranges == [None]
    assert [path.read_bytes() == CONTENT for path in results] == [True, True]
