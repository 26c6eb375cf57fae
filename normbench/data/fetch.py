"""Downloading the official CIFAR-10 archive: resumable, checked, and whole or not there at all."""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from normbench.data.formats import ARCHIVE_BYTES, ARCHIVE_MD5, explain_write_errors, file_md5
from normbench.data.locate import ARCHIVE_FILE
from normbench.errors import ConfigError, DataError

DEFAULT_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
URL_VARIABLE = "NORMBENCH_CIFAR10_URL"

TIMEOUT_SECONDS = 30.0
"""Seconds of silence after which a connection is given up; the whole download may take longer."""
MAX_FRUITLESS_ATTEMPTS = 4
"""Connections in a row that may bring nothing new before the download is given up."""
CHUNK_BYTES = 1 << 18

WAYS_OUT = f"""
  the host is down:    normbench data fetch --url URL   (or {URL_VARIABLE}=URL: any mirror of {ARCHIVE_FILE})
  if you have a copy:  normbench data import PATH
  without network:     dataset: synthetic"""


@dataclass(frozen=True)
class FetchProgress:
    """The progress of a download."""

    done_bytes: int
    total_bytes: int
    note: str = ""
    """The problem after which the download is being tried again, if there was one."""


class _BrokenConnection(Exception):
    """The transfer stopped early; another attempt may continue it."""


class _WrongContent(Exception):
    """The server sends something other than the archive; another attempt would not help."""


def fetch_cifar10(
    url: str,
    target_dir: Path,
    on_progress: Callable[[FetchProgress], None],
    *,
    num_bytes: int = ARCHIVE_BYTES,
    md5: str = ARCHIVE_MD5,
    timeout_seconds: float = TIMEOUT_SECONDS,
    pause_seconds: float = 1.0,
) -> Path:
    """Download the archive into `target_dir` and return its path; an archive that is there and whole is kept.

    Bytes go to a ``.partial`` file, which a broken or interrupted download leaves behind and the next one continues.
    The file gets its name when its size and MD5 are right. Two downloads at once into one folder wait for each other.

    Args:
        url: an http or https address.
        target_dir: made if absent.
        on_progress: called as bytes arrive and when a connection broke.
        num_bytes: size of the archive.
        md5: its MD5 in hexadecimal.
        timeout_seconds: silence of the server after which a connection counts as broken.
        pause_seconds: wait before a second attempt; doubles with each further one in a row.

    Raises:
        ConfigError: `url` is not an http or https address.
        DataError: the server cannot be reached, refuses, keeps breaking off, or sends something else; the disk is full.
        FolderError: `target_dir` cannot be written.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https") or not urllib.parse.urlsplit(url).hostname:
        raise ConfigError(f"--url {url!r}: must be an address that begins with http:// or https://")
    target = target_dir / ARCHIVE_FILE
    partial = target_dir / f"{ARCHIVE_FILE}.partial"
    with explain_write_errors(target_dir):
        target_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target_dir / f".{ARCHIVE_FILE}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_progress(FetchProgress(_size(partial), num_bytes, "waiting for another download into this folder"))
            lock.acquire()
    try:
        if target.is_file() and target.stat().st_size == num_bytes and file_md5(target) == md5:
            return target
        _download(url, partial, on_progress, num_bytes, timeout_seconds, pause_seconds)
        if (actual := file_md5(partial)) != md5:
            raise _WrongContent(f"its MD5 is {actual} instead of {md5}")
        with explain_write_errors(target_dir):
            os.replace(partial, target)
    except _WrongContent as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{url}: not the CIFAR-10 archive: {error}; what came was deleted.{WAYS_OUT}") from error
    finally:
        lock.release()
    return target


def _download(
    url: str,
    partial: Path,
    on_progress: Callable[[FetchProgress], None],
    num_bytes: int,
    timeout_seconds: float,
    pause_seconds: float,
) -> None:
    """Connect as often as it takes until `partial` has all bytes, as long as every few connections bring new ones."""
    if _size(partial) > num_bytes:
        partial.unlink()
    most_bytes = _size(partial)
    fruitless_attempts = 0
    while _size(partial) < num_bytes:
        try:
            _transfer(url, partial, on_progress, num_bytes, timeout_seconds)
        except _BrokenConnection as error:
            done_bytes = _size(partial)
            fruitless_attempts = 0 if done_bytes > most_bytes else fruitless_attempts + 1
            most_bytes = max(most_bytes, done_bytes)
            if fruitless_attempts == MAX_FRUITLESS_ATTEMPTS:
                kept = f" {done_bytes:,} of {num_bytes:,} bytes are kept; run it again to go on." if done_bytes else ""
                raise DataError(f"{url}: cannot be downloaded: {error}.{kept}{WAYS_OUT}") from error
            on_progress(FetchProgress(done_bytes, num_bytes, f"{error}; trying again"))
            time.sleep(pause_seconds * 2 ** max(0, fruitless_attempts - 1))


def _transfer(
    url: str, partial: Path, on_progress: Callable[[FetchProgress], None], num_bytes: int, timeout_seconds: float
) -> None:
    """Make one connection and append what it brings; return when all bytes are there.

    Raises:
        _BrokenConnection: the server could not be reached, failed, or stopped early.
        _WrongContent: it offers something of another size.
        DataError: it refuses, or the disk is full.
    """
    with _connect(url, partial, timeout_seconds) as response:
        done_bytes = _resumed_at(response, _size(partial), num_bytes)
        with explain_write_errors(partial.parent), partial.open("r+b" if done_bytes else "wb") as file:
            file.seek(done_bytes)
            for chunk in _chunks(response):
                done_bytes += len(chunk)
                if done_bytes > num_bytes:
                    raise _WrongContent(f"more than {num_bytes:,} bytes")
                file.write(chunk)
                on_progress(FetchProgress(done_bytes, num_bytes))
    if done_bytes < num_bytes:
        raise _BrokenConnection(f"the connection broke at {done_bytes:,} of {num_bytes:,} bytes")


def _connect(url: str, partial: Path, timeout_seconds: float) -> http.client.HTTPResponse:
    """Ask for what `partial` lacks."""
    start = _size(partial)
    request = urllib.request.Request(url, headers={"User-Agent": "normbench", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=timeout_seconds)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            partial.unlink(missing_ok=True)
            raise _BrokenConnection("the server would not continue the partial file") from error
        if error.code >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _BrokenConnection(f"the server says {error.code} {error.reason}") from error
        raise DataError(
            f"{url}: cannot be downloaded: the server says {error.code} {error.reason}.{WAYS_OUT}"
        ) from error
    except urllib.error.URLError as error:
        raise _BrokenConnection(f"no connection ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenConnection(f"no answer ({error or type(error).__name__})") from error
    return response


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the body as it arrives."""
    try:
        while chunk := response.read1(CHUNK_BYTES):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenConnection(f"the connection broke ({error or type(error).__name__})") from error


def _resumed_at(response: http.client.HTTPResponse, start: int, num_bytes: int) -> int:
    """Return the offset of the first byte that `response` brings: 0 where the server knows no ranges.

    Raises:
        _WrongContent: it brings another range, or the whole file would have another size than `num_bytes`.
    """
    is_range = response.status == http.HTTPStatus.PARTIAL_CONTENT
    content_range = response.headers.get("Content-Range", "")
    if is_range and not content_range.startswith(f"bytes {start}-"):
        raise _WrongContent(f"the range {content_range!r} instead of what follows byte {start:,}")
    offset = start if is_range else 0
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and offset + int(length) != num_bytes:
        raise _WrongContent(f"{offset + int(length):,} bytes instead of {num_bytes:,}")
    return offset


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
