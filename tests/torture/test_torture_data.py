"""Whatever a server sends, an address says, or a file of CIFAR-10 holds: a short error, in time, with little memory.

`NORMBENCH_TORTURE=100000 pytest -m slow tests/torture/test_torture_data.py` tries so many files, and a tenth as many
servers and addresses; without it the slow tests try some thousands, from a fresh seed each time, which a failure names.
"""

import gzip
import hashlib
import io
import os
import pickle
import random
import socket
import string
import tarfile
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import CIFAR10
from torture_limits import TookTooLong, cpu_seconds_limited, memory_limited

from normbench.data import formats, official
from normbench.data.fetch import TimeLimits, fetch_cifar
from normbench.data.formats import Arrays, read_arrays
from normbench.errors import ConfigError, DataError

NUM_SLOW = int(os.environ.get("NORMBENCH_TORTURE", "4000"))
MAX_SECONDS = 1.0
MEMORY_BYTES = 1 << 28

NUM_TRAIN, NUM_TEST = 20, 10
CONTENT = random.Random(0).randbytes(5_000)
OFFICIAL = replace(official.CIFAR10, archive_bytes=len(CONTENT), archive_md5=hashlib.md5(CONTENT).hexdigest())
LIMITS = TimeLimits(
    silence_seconds=0.2, window_seconds=0.4, bytes_per_second=5_000, total_seconds=1.0, pause_seconds=0.001
)
PATIENCE_SECONDS = 4.0
"""The limits above, and what a busy machine may add."""


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    with memory_limited(MEMORY_BYTES):
        yield


# Files


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Arrays:
    monkeypatch.setattr(formats, "NUM_TRAIN", NUM_TRAIN)
    monkeypatch.setattr(formats, "NUM_TEST", NUM_TEST)
    draw = np.random.default_rng(0)
    return Arrays(
        draw.integers(0, 256, (NUM_TRAIN, 32, 32, 3), dtype=np.uint8),
        draw.permutation(np.arange(NUM_TRAIN) % 10),
        draw.integers(0, 256, (NUM_TEST, 32, 32, 3), dtype=np.uint8),
        draw.permutation(np.arange(NUM_TEST) % 10),
    )


DESCRIPTIONS = [
    "'|u1'", "'<i8'", "'>i8'", "'<u4'", "'|b1'", "'<f8'", "'|O'", "'<U4'", "'|V2000000000'", "'<M8[s]'", "'<c16'",
    "[('a', '|u1')]", "[('a', '|O')]", "('|u1', (1000000, 1000000))", "''", "'q' * 9", "None", "3", "'|u1", "'\\x00'",
    "'|S0'", "[" * 90, "{'a'}", "'\\N{DIGIT ONE}'", "'\\q'", "()", "'<i8,<i8'", "'|i1'",
]  # fmt: skip
SHAPES = [
    f"({NUM_TRAIN}, 32, 32, 3)", f"({NUM_TEST}, 32, 32, 3)", f"({NUM_TRAIN},)", f"({NUM_TEST}, 1)", "()", "(0,)",
    "(-1,)", "(-1, -20)", f"({10**13},)", f"({10**30},)", "(" + "9" * 4301 + ",)", "(1.5,)", "('a',)", "(True,)",
    "[20]", "20", "None", "(40L,)", "(0x28,)", "(4_0,)", f"({NUM_TRAIN},) * 3", "(" * 60, f"({2**62}, 4)",
    "(0, 10000000000000)", "(1,) + (2,)",
]  # fmt: skip


def header(choose: random.Random) -> bytes:
    """Return the head of an npy file: a good one of some array, or a strange one."""
    order = choose.choice(["False", "False", "True", "0", "None", "'x'"])
    text = choose.choice(
        [
            "{{'descr': {0}, 'fortran_order': {1}, 'shape': {2}}}",
            "{{'descr': {0}, 'fortran_order': {1}, 'shape': {2}, }}" + " " * 40 + "\n",
            "{{'descr': {0}, 'shape': {2}}}",
            "{{'descr': {0}, 'fortran_order': {1}, 'shape': {2}, 'more': 1}}",
            "{0}{1}{2}",
            "{{'descr': {0}, 'fortran_order': {1}, 'shape': {2}",
            "__import__('os').system('touch escaped')",
        ]
    ).format(choose.choice(DESCRIPTIONS), order, choose.choice(SHAPES))
    version = choose.choice([(1, 0)] * 6 + [(2, 0)] * 2 + [(3, 0), (0, 0), (255, 255)])
    size = choose.choice([len(text)] * 8 + [0, 3, 65_000, 2**32 - 1])
    width = 2 if version == (1, 0) else 4
    magic = choose.choice([b"\x93NUMPY"] * 9 + [b"\x93NUMPX"])
    return magic + bytes(version) + (size % 256**width).to_bytes(width, "little") + text.encode()


def flipped(choose: random.Random, content: bytes) -> bytes:
    """Change some bytes: anywhere, or near an end, where zip and npy say what they hold."""
    changed = bytearray(content)
    for _ in range(choose.choice((1, 1, 1, 2, 5, 20))):
        if not changed:
            break
        near = choose.choice((len(changed), 150, -150, -500))
        at = choose.randrange(min(abs(near), len(changed)))
        at = len(changed) - 1 - at if near < 0 else at
        match choose.randrange(5):
            case 0:
                changed[at] ^= 1 << choose.randrange(8)
            case 1:
                changed[at] = choose.choice((0, 255, choose.randrange(256)))
            case 2:
                del changed[at : at + choose.choice((1, 4, 1000))]
            case 3:
                changed[at:at] = choose.randbytes(choose.choice((1, 4, 100)))
            case _:
                changed[at : at + 4] = choose.choice((b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f"))
    return bytes(changed)


def damaged_npz(choose: random.Random, members: dict[str, bytes]) -> bytes:
    """Return an npz of which members, headers or the file itself are damaged."""
    found = dict(members)
    name = choose.choice(list(found))
    match choose.randrange(8):
        case 0:
            found[name] = header(choose) + found[name][128:]
        case 1:
            found[name] = header(choose)
        case 2:
            found[name] = flipped(choose, found[name][:128]) + found[name][128:]
        case 3:
            found[name] = flipped(choose, found[name])
        case 4:
            found[name] = found[choose.choice(list(found))]
        case 5:
            del found[name]
        case 6:
            found[choose.choice(["../x", "/x", "a" * 60_000, "x_train", "\x1b[2J.npy"])] = b"x"
    methods = [zipfile.ZIP_STORED] * 25 + [zipfile.ZIP_DEFLATED] * 15 + [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    method = choose.choice(methods)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method, compresslevel=1) as archive:
        for member, content in found.items():
            archive.writestr(member, content)
    content = buffer.getvalue()
    return flipped(choose, content) if choose.random() < 0.6 else content


def wrong_with(path: Path, expected: Arrays | None) -> str | None:
    """Return what is wrong with how a file is treated, or None."""
    try:
        with cpu_seconds_limited(MAX_SECONDS), warnings.catch_warnings():
            warnings.simplefilter("error")
            arrays = read_arrays(path)
    except DataError as error:
        return None if str(error).startswith(f"{path}: ") else f"a message that does not name the file: {error}"
    except (TookTooLong, Exception) as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    if expected is not None and not all(map(np.array_equal, arrays, expected)):
        return "other images or labels than were written"
    for images, labels, count in ((arrays[0], arrays[1], NUM_TRAIN), (arrays[2], arrays[3], NUM_TEST)):
        if (images.dtype, images.shape) != (np.uint8, (count, 32, 32, 3)):
            return f"images {images.dtype} {images.shape}"
        if labels.dtype != np.int64 or sorted(labels) != sorted(np.arange(count) % 10):
            return f"labels {labels}"
    return None


def check_npz(folder: Path, small: Arrays, seed: int, count: int) -> None:
    members = {}
    for name, array in small._asdict().items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        members[f"{name}.npy"] = buffer.getvalue()
    found: dict[str, int] = {}
    for number in range(count):
        choose = random.Random(seed * 1_000_000 + number)
        (folder / "cifar10.npz").write_bytes(damaged_npz(choose, members))
        if wrong := wrong_with(folder / "cifar10.npz", None):
            found.setdefault(wrong, seed * 1_000_000 + number)
    assert not found
    assert not list(Path().glob("escaped*"))


def test_damaged_npz(tmp_path: Path, small: Arrays) -> None:
    check_npz(tmp_path, small, 1, 600)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_damaged_npz(tmp_path: Path, small: Arrays) -> None:
    check_npz(tmp_path, small, int(time.time()), NUM_SLOW)


def check_flips(folder: Path, small: Arrays, seed: int, count: int) -> None:
    """Flip bits of a good file alone: what is read is what was written, or nothing."""
    path = folder / "cifar10.npz"
    good = io.BytesIO()
    np.savez(good, **small._asdict())
    for number in range(count):
        choose = random.Random(seed * 1_000_000 + number)
        content = bytearray(good.getvalue())
        at = choose.randrange(choose.choice((len(content), 200, 700)))
        content[choose.choice((at, -1 - at))] ^= 1 << choose.randrange(8)
        path.write_bytes(content)
        assert wrong_with(path, small) is None, seed * 1_000_000 + number


def test_flipped_bits(tmp_path: Path, small: Arrays) -> None:
    check_flips(tmp_path, small, 1, 300)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_flipped_bits(tmp_path: Path, small: Arrays) -> None:
    check_flips(tmp_path, small, int(time.time()), NUM_SLOW)


def official_files(small: Arrays) -> dict[str, bytes]:
    """Return the files of a small official folder."""
    images = np.concatenate([small.x_train, small.x_test]).transpose(0, 3, 1, 2).reshape(-1, 3072)
    labels = np.concatenate([small.y_train, small.y_test]).tolist()
    files = {}
    for number, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        rows = slice(4 * number, 4 * number + 4) if number < 5 else slice(NUM_TRAIN, None)
        files[name] = pickle.dumps({"data": images[rows], "labels": labels[rows]}, protocol=2)
    files["batches.meta"] = pickle.dumps({"label_names": list("abcdefghij")}, protocol=2)
    return files


def believe(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> None:
    """Make torchvision take these files for the official ones."""
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    names = [name for name in files if name.startswith("data")]
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in names])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
    monkeypatch.setattr(CIFAR10, "meta", meta)


def check_archives(folder: Path, small: Arrays, monkeypatch: pytest.MonkeyPatch, seed: int, count: int) -> None:
    """Damage archives behind the check of their MD5, which none of them would pass."""
    files = official_files(small)
    believe(monkeypatch, files)
    path = folder / "cifar-10-python.tar.gz"
    monkeypatch.setattr(formats.tempfile, "tempdir", str(folder / "scratch"))
    (folder / "scratch").mkdir()
    found: dict[str, int] = {}
    for number in range(count):
        choose = random.Random(seed * 1_000_000 + number)
        path.write_bytes(damaged_archive(choose, files))
        monkeypatch.setitem(vars(official.CIFAR10), "archive_bytes", path.stat().st_size)
        monkeypatch.setitem(vars(official.CIFAR10), "archive_md5", hashlib.md5(path.read_bytes()).hexdigest())
        if wrong := wrong_with(path, small):
            found.setdefault(wrong, seed * 1_000_000 + number)
    assert not found
    assert not list((folder / "scratch").iterdir())
    assert {entry.name for entry in folder.iterdir()} == {"scratch", path.name}


def damaged_archive(choose: random.Random, files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=choose.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            changed = choose.random() < 0.1
            if changed:
                member.type = choose.choice(
                    (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE)
                )
                member.linkname = choose.choice(("cifar-10-batches-py/" + name, "../../x", "/etc/passwd", ""))
                member.name = choose.choice((member.name, "../" + name, "/" + name, "cifar-10-batches-py/../" + name))
            member.size = 0 if changed else len(content)
            tar.addfile(member, None if changed else io.BytesIO(content))
    content = buffer.getvalue()
    if choose.random() < 0.5:
        at = 512 * choose.randrange(len(content) // 512)
        content = content[:at] + flipped(choose, content[at : at + 512]) + content[at + 512 :]
    packed = gzip.compress(content, compresslevel=1)
    return flipped(choose, packed) if choose.random() < 0.3 else packed


def test_damaged_archives(tmp_path: Path, small: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    check_archives(tmp_path, small, monkeypatch, 1, 60)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_damaged_archives(tmp_path: Path, small: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    check_archives(tmp_path, small, monkeypatch, int(time.time()), NUM_SLOW // 10)


def test_damaged_batches(tmp_path: Path, small: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch is unpickled that is not the official one, whatever it holds."""
    files = official_files(small)
    believe(monkeypatch, files)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for number in range(60):
        choose = random.Random(number)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        name = choose.choice(list(files))
        (folder / name).write_bytes(flipped(choose, files[name]))
        expected = small if (folder / name).read_bytes() == files[name] else None
        wrong = wrong_with(folder, expected)
        assert wrong is None, f"{number}: {wrong}"


# Servers


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Let `answer` answer every connection to the address that is returned."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    ended = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError, TookTooLong):
            connection.settimeout(PATIENCE_SECONDS)
            answer(connection)

    def accept() -> None:
        with suppress(OSError):
            while not ended.is_set():
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/x"
    finally:
        ended.set()
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def asked(connection: socket.socket) -> bytes:
    request = b""
    while b"\r\n\r\n" not in request and (piece := connection.recv(4096)):
        request += piece
    return request


def drip(connection: socket.socket, content: bytes, seconds: float = 0.05) -> None:
    for position in range(len(content)):
        connection.sendall(content[position : position + 1])
        time.sleep(seconds)


def endlessly(connection: socket.socket, content: bytes) -> None:
    while True:
        connection.sendall(content)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CONTENT)


def one_byte_each(connection: socket.socket) -> None:
    """Break after every byte, and go on there."""
    request = asked(connection)
    start = int(request.partition(b"bytes=")[2].partition(b"-")[0] or 0)
    status = b"206 Partial Content\r\nContent-Range: bytes %d-%d/%d" % (start, len(CONTENT) - 1, len(CONTENT))
    length = b"\r\nContent-Length: %d\r\n\r\n" % (len(CONTENT) - start)
    connection.sendall(b"HTTP/1.1 " + (status if start else b"200 OK") + length + CONTENT[start : start + 1])


def answering(*pieces: bytes, then: Callable[..., None] | None = None, more: bytes = b"x") -> Any:
    def answer(connection: socket.socket) -> None:
        asked(connection)
        for piece in pieces:
            connection.sendall(piece)
        if then:
            then(connection, more)

    return answer


SERVERS: dict[str, Callable[[socket.socket], None]] = {
    "body drips": answering(HEAD, then=drip, more=CONTENT),
    "headers drip": answering(b"HTTP/1.1 200 OK\r\n", then=drip, more=b"A: b\r\n" * 900),
    "one header drips": answering(b"HTTP/1.1 200 OK\r\nA: ", then=drip, more=b"x" * 5000),
    "the status line drips": answering(then=drip, more=b"HTTP/1.1 200 OK" + b"x" * 5000),
    "endless 100 Continue": answering(then=endlessly, more=b"HTTP/1.1 100 Continue\r\n\r\n"),
    "endless headers": answering(b"HTTP/1.1 200 OK\r\n", then=endlessly, more=b"A: b\r\n"),
    "endless header": answering(b"HTTP/1.1 200 OK\r\nA: ", then=endlessly, more=b"x" * 999),
    "endless status line": answering(b"HTTP/1.1 200 ", then=endlessly, more=b"x" * 999),
    "endless body": answering(b"HTTP/1.1 200 OK\r\n\r\n", then=endlessly, more=b"x" * 9999),
    "endless chunks": answering(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", then=endlessly, more=b"1;" + b"x" * 99 + b"\r\nx\r\n"
    ),
    "endless body of a redirect": answering(
        b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", then=endlessly, more=b"x" * 9999
    ),
    "endless body of an error": answering(b"HTTP/1.1 503 No\r\n\r\n", then=endlessly, more=b"x" * 9999),
    "breaks after every byte": one_byte_each,
    "silent": lambda connection: time.sleep(1),
    "silent after the headers": answering(HEAD, then=lambda *_: time.sleep(1)),
    "closes": lambda connection: None,
    "truncated": answering(HEAD, CONTENT[:999]),
    "a length of 5,000 digits": answering(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n"),
    "a negative length": answering(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", CONTENT),
    "a chunk of any size": answering(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"F" * 999 + b"\r\n", CONTENT
    ),
    "a wrong range": answering(b"HTTP/1.1 206 Partial Content\r\nContent-Range: " + b"\x1b" * 999 + b"\r\n\r\n"),
    "garbage": answering(bytes(range(256)) * 9),
    "a circle": answering(b"HTTP/1.1 301 Moved\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"),
    "ftp": answering(b"HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1:1/x\r\n\r\n"),
    "a malformed target": answering(b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n"),
}


def wrong_with_server(url: str, folder: Path) -> str | None:
    """Return what is wrong with how a server is treated, or None."""
    began = time.monotonic()
    try:
        path = fetch_cifar(url, folder, lambda _: None, official=OFFICIAL, limits=LIMITS)
        if path.read_bytes() != CONTENT:
            return "wrong content was taken for the archive"
        path.unlink()
    except (ConfigError, DataError) as error:
        message = str(error)
        if "\x1b" in message or len(message) > 2048 or not message.startswith(("--url", url.partition("?")[0])):
            return f"a message like {message[:300]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    seconds = time.monotonic() - began
    return f"{seconds:.1f} s" if seconds > PATIENCE_SECONDS else None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("name", SERVERS)
def test_servers_are_given_up_in_time(name: str, tmp_path: Path) -> None:
    with serving(SERVERS[name]) as url:
        assert wrong_with_server(url, tmp_path) is None
        assert not (tmp_path / "cifar-10-python.tar.gz").exists()


def damaged_answer(choose: random.Random) -> bytes:
    status = choose.choice([200, 200, 200, 206, 301, 302, 304, 307, 308, 100, 101, 204, 404, 416, 500, 999, 0])
    lines = [b"HTTP/1.%d %d %s" % (choose.randrange(3), status, choose.choice((b"OK", b"", b"\x1b[2J", b"x" * 999)))]
    for _ in range(choose.randrange(4)):
        lines.append(
            choose.choice(
                [
                    b"Content-Length: %d" % choose.choice((len(CONTENT), 0, 5, 10**12)),
                    b"Content-Length: " + choose.choice((b"-1", b"x", b"1e9", b"9" * 5000, b"")),
                    b"Content-Range: bytes %d-4999/5000" % choose.choice((0, 5, 999)),
                    b"Transfer-Encoding: chunked",
                    b"Content-Encoding: gzip",
                    b"Location: "
                    + choose.choice((b"/x", b"", b"//", b"http://[", b"ftp://127.0.0.1:1/", b"\xff", b"?" * 9999)),
                    b"Connection: " + choose.choice((b"close", b"keep-alive", b"upgrade")),
                    b"A" * 70_000,
                    b": x",
                    b"X: \x00",
                ]
            )
        )
    body = choose.choice(
        (CONTENT, CONTENT[:500], b"", CONTENT + b"x", b"1388\r\n" + CONTENT + b"\r\n0\r\n\r\n", b"-5\r\n")
    )
    answer = b"\r\n".join(lines) + b"\r\n\r\n" + body
    return flipped(choose, answer) if choose.random() < 0.5 else answer


def check_answers(folder: Path, seed: int, count: int) -> None:
    """Ask a server whose every connection gets the next damaged answer, now and then in pieces."""
    current = [random.Random(0)]

    def answer(connection: socket.socket) -> None:
        choose = current[0]
        asked(connection)
        content = damaged_answer(choose)
        cut = choose.randrange(len(content) + 1)
        for piece in (content[:cut], content[cut:]) if choose.random() < 0.3 else (content,):
            connection.sendall(piece)

    found: dict[str, int] = {}
    with serving(answer) as url:
        for number in range(count):
            current[0] = random.Random(seed * 1_000_000 + number)
            if wrong := wrong_with_server(url, folder):
                found.setdefault(wrong, seed * 1_000_000 + number)
    assert not found


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_damaged_answers(tmp_path: Path) -> None:
    check_answers(tmp_path, 1, 100)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_many_damaged_answers(tmp_path: Path) -> None:
    check_answers(tmp_path, int(time.time()), NUM_SLOW // 10)


@pytest.fixture
def only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no address lead anywhere else."""
    look_up = socket.getaddrinfo

    def local(host: Any, *arguments: Any, **options: Any) -> Any:
        if host not in ("127.0.0.1", "localhost", "::1"):
            str(host).encode("idna")
            raise socket.gaierror(socket.EAI_NONAME, "no such host")
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", local)


def check_addresses(folder: Path, seed: int, count: int) -> None:
    found: dict[str, str] = {}
    for number in range(count):
        choose = random.Random(seed * 1_000_000 + number)
        url = list(
            choose.choice(("http://127.0.0.1:1/x", "https://[::1]:1/x?a=b#c", "http://mary:hunter2@localhost:1/"))
        )
        for _ in range(choose.randint(1, 6)):
            at = choose.randrange(len(url) + 1)
            pieces = [*string.printable, "é", "²", "\ud800", "\0", "[", "]", "@", "//", "..", "%", "a" * 70, "9" * 5000]
            url[at : at + choose.randrange(3)] = choose.choice(pieces)
        text = "".join(url)
        try:
            fetch_cifar(text, folder, lambda _: None, official=OFFICIAL, limits=LIMITS)
            found["taken for the archive"] = text
        except (ConfigError, DataError) as error:
            if "@localhost" in text and "hunter2" in str(error):
                found["a password"] = text
        except Exception as error:
            found[f"{type(error).__name__}: {error}"] = text
    assert not found


def test_addresses(tmp_path: Path, only_this_machine: None) -> None:
    check_addresses(tmp_path, 1, 300)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_addresses(tmp_path: Path, only_this_machine: None) -> None:
    check_addresses(tmp_path, int(time.time()), NUM_SLOW // 10)
