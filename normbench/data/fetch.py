"""Downloading the official CIFAR archives: resumable, checked, bounded in time, and whole or not there at all."""

from __future__ import annotations

import functools
import http.client
import io
import os
import re
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from normbench.data.formats import explain_write_errors, file_md5
from normbench.data.official import CIFAR10, Official
from normbench.errors import ConfigError, DataError

MAX_FRUITLESS_ATTEMPTS = 4
"""Connections in a row that may bring nothing new before the download is given up."""
CHUNK_BYTES = 1 << 18


def _ways_out(official: Official) -> str:
    mirror = f"(or {official.url_variable}=URL: any mirror of {official.archive_file})"
    return f"""
  the host is down:    normbench data fetch{official.flag} --url URL   {mirror}
  if you have a copy:  normbench data import PATH{official.flag}
  without network:     dataset: synthetic"""


@dataclass(frozen=True)
class TimeLimits:
    """How long a download may take. The name of a host is looked up within the limits of the operating system."""

    silence_seconds: float = 30.0
    """Silence of the server after which a connection counts as broken."""
    window_seconds: float = 60.0
    """The span over which the speed is measured, over all connections and the pauses between them."""
    bytes_per_second: float = 5_000.0
    """The lowest speed."""
    total_seconds: float = 6 * 3600.0
    pause_seconds: float = 1.0
    """The wait before a second attempt; it doubles with each further one in a row."""


@dataclass(frozen=True)
class FetchProgress:
    """The progress of a download."""

    done_bytes: int
    total_bytes: int
    note: str = ""
    """The problem after which the download is being tried again, if there was one."""


class _BrokenConnection(Exception):
    """The transfer stopped early; another attempt may continue it."""


class _TooSlow(Exception):
    """The download has used up its time, or brings too little; another attempt would have no time left."""


class _NotFetched(DataError):
    """The download failed; the ways out are still to be named."""


class _WrongContent(Exception):
    """The server sends something other than the archive; another attempt would not help."""


def fetch_cifar(
    url: str,
    target_dir: Path,
    on_progress: Callable[[FetchProgress], None],
    *,
    official: Official = CIFAR10,
    limits: TimeLimits = TimeLimits(),
) -> Path:
    """Download the archive into `target_dir` and return its path; an archive that is there and whole is kept.

    Bytes go to a ``.partial`` file, which a broken or interrupted download leaves behind and the next one continues.
    The file gets its name when its size and MD5 are right. Two downloads at once into one folder wait for each other.

    Args:
        url: an http or https address. It may redirect, but not from https to http, nor to any other scheme.
        target_dir: made if absent.
        on_progress: called as bytes arrive and when a connection broke.
        official: the data set, with size and MD5 of its archive.
        limits: how long it may take; a download that another process is at is waited for without limit.

    Raises:
        ConfigError: `url` is not an http or https address, or is malformed.
        DataError: the server cannot be reached, refuses, keeps breaking off, is too slow, or sends something else; the
            disk is full.
        FolderError: `target_dir` cannot be written.
    """
    if problem := _problem_with(url):
        raise ConfigError(f"--url {shown_url(url)!r}: {problem}")
    num_bytes, md5 = official.archive_bytes, official.archive_md5
    target = target_dir / official.archive_file
    partial = target_dir / f"{official.archive_file}.partial"
    with explain_write_errors(target_dir):
        target_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target_dir / f".{official.archive_file}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_progress(FetchProgress(_size(partial), num_bytes, "waiting for another download into this folder"))
            lock.acquire()
    try:
        if target.is_file() and target.stat().st_size == num_bytes and file_md5(target) == md5:
            return target
        _download(url, partial, on_progress, num_bytes, limits)
        if (actual := file_md5(partial)) != md5:
            raise _WrongContent(f"its MD5 is {actual} instead of {md5}")
        with explain_write_errors(target_dir):
            os.replace(partial, target)
    except _WrongContent as error:
        partial.unlink(missing_ok=True)
        raise DataError(
            f"{shown_url(url)}: not the {official.label} archive: {error}; what came was deleted.{_ways_out(official)}"
        ) from error
    except _NotFetched as error:
        raise DataError(f"{error}{_ways_out(official)}") from error
    finally:
        lock.release()
    return target


def shown_url(url: str) -> str:
    """Return an address as messages name it: without user, password, query and fragment."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # raises where it is malformed
        url = urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        pass  # malformed: then nothing in front of an @ is shown
    return re.sub(r"^(https?:)?.*@", r"\1//", url, flags=re.DOTALL)


def _problem_with(url: str) -> str | None:
    """Return what is wrong with an address, without quoting it; None if nothing is."""
    try:
        parts = urllib.parse.urlsplit(url)
        has_host = bool(parts.hostname and parts.hostname.encode("idna")) and parts.port != 0
    except ValueError:
        return "is no address: its host or port is malformed"
    if parts.scheme not in ("http", "https") or not has_host:
        return "must be an address that begins with http:// or https://"
    if "@" in parts.netloc:
        return "an address with a user or password cannot be used"
    if not re.fullmatch("[!-~]+", url):
        return "characters other than ASCII, and spaces, must be written as %XX, those of a host as xn--"
    return None


class _Pace:
    """The time that a download has left, in all and for the next bytes."""

    def __init__(self, limits: TimeLimits) -> None:
        self.limits = limits
        self.end = time.monotonic() + limits.total_seconds
        self._begin_window()

    def _begin_window(self) -> None:
        self.window_end = time.monotonic() + self.limits.window_seconds
        self.num_awaited = self.limits.window_seconds * self.limits.bytes_per_second

    def count(self, num_bytes: int) -> None:
        """Count bytes of the archive that arrived; once a window has brought what it must, the next begins."""
        self.num_awaited -= num_bytes
        if self.num_awaited <= 0:
            self._begin_window()

    def patience(self, at_most: float) -> float:
        """Return how many seconds may be waited for what comes next.

        Raises:
            _TooSlow: none.
        """
        now = time.monotonic()
        if now >= self.end:
            raise _TooSlow(f"not done within {self.limits.total_seconds:,.0f} s")
        if now >= self.window_end:
            slowest, seconds = self.limits.bytes_per_second, self.limits.window_seconds
            raise _TooSlow(f"slower than {slowest:,.0f} bytes per second over {seconds:,.0f} s")
        return min(at_most, self.end - now, self.window_end - now)


def _download(
    url: str, partial: Path, on_progress: Callable[[FetchProgress], None], num_bytes: int, limits: TimeLimits
) -> None:
    """Connect as often as it takes until `partial` has all bytes, as long as every few connections bring new ones."""
    if _size(partial) > num_bytes:
        partial.unlink()
    pace = _Pace(limits)
    most_bytes = _size(partial)
    num_fruitless = 0
    problem: Exception | None = None
    try:
        while _size(partial) < num_bytes:
            try:
                _transfer(url, partial, on_progress, num_bytes, pace)
            except _BrokenConnection as error:
                problem = error
                done_bytes = _size(partial)
                num_fruitless = 0 if done_bytes > most_bytes else num_fruitless + 1
                most_bytes = max(most_bytes, done_bytes)
                if num_fruitless == MAX_FRUITLESS_ATTEMPTS:
                    raise
                on_progress(FetchProgress(done_bytes, num_bytes, f"{error}; trying again"))
                time.sleep(pace.patience(limits.pause_seconds * 2 ** max(0, num_fruitless - 1)))
    except (_BrokenConnection, _TooSlow) as error:
        done_bytes = _size(partial)
        before = f" ({problem})" if problem not in (None, error) else ""
        kept = f" {done_bytes:,} of {num_bytes:,} bytes are kept; run it again to go on." if done_bytes else ""
        raise _NotFetched(f"{shown_url(url)}: cannot be downloaded: {error}{before}.{kept}") from error


def _transfer(
    url: str, partial: Path, on_progress: Callable[[FetchProgress], None], num_bytes: int, pace: _Pace
) -> None:
    """Make one connection and append what it brings; return when all bytes are there.

    Raises:
        _BrokenConnection: the server could not be reached, failed, or stopped early.
        _TooSlow: there is no time left.
        _WrongContent: it offers something of another size.
        DataError: it refuses, or the disk is full.
    """
    with _connect(url, partial, pace) as response:
        done_bytes = _resumed_at(response, _size(partial), num_bytes)
        with explain_write_errors(partial.parent), partial.open("r+b" if done_bytes else "wb") as file:
            file.seek(done_bytes)
            for chunk in _chunks(response):
                pace.count(len(chunk))
                done_bytes += len(chunk)
                if done_bytes > num_bytes:
                    raise _WrongContent(f"more than {num_bytes:,} bytes")
                file.write(chunk)
                on_progress(FetchProgress(done_bytes, num_bytes))
    if done_bytes < num_bytes:
        raise _BrokenConnection(f"the connection broke at {done_bytes:,} of {num_bytes:,} bytes")


class _PacedSocket(io.RawIOBase):
    """Bytes from a socket, each wait for them bounded."""

    def __init__(self, sock: socket.socket, pace: _Pace) -> None:
        self._socket, self._pace = sock, pace
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(self._pace.patience(self._pace.limits.silence_seconds))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _PacedResponse(http.client.HTTPResponse):
    """A response whose headers and body are read within the time there is."""

    def __init__(self, pace: _Pace, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_PacedSocket(sock, pace))


class _PacedConnections(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens http and https addresses, and reads what comes within the time there is."""

    def __init__(self, pace: _Pace) -> None:
        super().__init__()
        self.pace = pace

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(self._connection, http.client.HTTPConnection), req)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(functools.partial(self._connection, http.client.HTTPSConnection), req)

    def _connection(
        self, kind: type[http.client.HTTPConnection], host: str, **options: Any
    ) -> http.client.HTTPConnection:
        connection = kind(host, **options)
        connection.response_class = functools.partial(_PacedResponse, self.pace)  # type: ignore[assignment]
        return connection


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https, but not from https to http."""

    def http_error_302(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any
    ) -> http.client.HTTPResponse | None:
        """Follow a redirect without reading its body, which urllib would, however long it is."""
        fp.close()
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        problem = _problem_with(newurl)
        if req.type == "https" and newurl[:6].lower() != "https:":
            problem = "https may redirect to https only"
        if problem:
            raise _NotFetched(f"{shown_url(req.full_url)}: redirects to {shown_url(newurl)!r}: {problem}.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(request: urllib.request.Request, pace: _Pace) -> http.client.HTTPResponse:
    """Ask through an opener that knows no scheme but http and https."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        _PacedConnections(pace),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    response: http.client.HTTPResponse = opener.open(request, timeout=pace.patience(pace.limits.silence_seconds))
    return response


def _connect(url: str, partial: Path, pace: _Pace) -> http.client.HTTPResponse:
    """Ask for what `partial` lacks."""
    start = _size(partial)
    request = urllib.request.Request(url, headers={"User-Agent": "normbench", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        return _open(request, pace)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            partial.unlink(missing_ok=True)
            raise _BrokenConnection("the server would not continue the partial file") from error
        said = f"the server says {error.code} {http.client.responses.get(error.code, '')}".rstrip()
        if error.code >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _BrokenConnection(said) from error
        if error.code < http.HTTPStatus.BAD_REQUEST:
            said += ", which cannot be followed"
        raise _NotFetched(f"{shown_url(url)}: cannot be downloaded: {said}.") from error
    except urllib.error.URLError as error:
        raise _BrokenConnection(f"no connection ({_said(error.reason)})") from error
    except (ValueError, http.client.InvalidURL) as error:  # Location headers that urllib parses before it asks us
        raise _NotFetched(f"{shown_url(url)}: redirects to a malformed address.") from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenConnection(f"no answer ({_said(error)})") from error


def _said(reason: object) -> str:
    """Return a reason in a line; the server may have written it."""
    text = str(reason) or type(reason).__name__
    return "".join(character if character.isprintable() else " " for character in text[:200])


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the body as it arrives."""
    try:
        while chunk := response.read1(CHUNK_BYTES):
            yield chunk
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _BrokenConnection(f"the connection broke ({_said(error)})") from error


def _resumed_at(response: http.client.HTTPResponse, start: int, num_bytes: int) -> int:
    """Return the offset of the first byte that `response` brings: 0 where the server knows no ranges.

    Raises:
        _WrongContent: it brings another range, or the whole file would have another size than `num_bytes`.
    """
    is_range = response.status == http.HTTPStatus.PARTIAL_CONTENT
    content_range = response.headers.get("Content-Range", "")
    if is_range and not content_range.startswith(f"bytes {start}-"):
        raise _WrongContent(f"the range {content_range[:100]!r} instead of what follows byte {start:,}")
    offset = start if is_range else 0
    length = response.headers.get("Content-Length", "")
    if re.fullmatch("[0-9]{1,18}", length) and offset + int(length) != num_bytes:
        raise _WrongContent(f"{offset + int(length):,} bytes instead of {num_bytes:,}")
    return offset


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
