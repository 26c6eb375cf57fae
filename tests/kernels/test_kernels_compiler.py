"""Compiling in another process: it finds what it needs without torch, survives bad kernels, and may be lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

from normbench.kernels.launch import Compilation, launch
from normbench.triton_code import compiler

_SERVE = """
import os, sys, time
from pathlib import Path
from normbench.triton_code.compile_server import _import_all, serve

def work(name, seconds):
    if seconds < 0:
        raise RuntimeError("no such kernel")
    time.sleep(seconds)
    Path(name).touch()

_import_all()
serve(sys.stdin, sys.stdout, 2, work)
assert "normbench.triton_code.conv_kernels" in sys.modules
assert "torch" not in sys.modules
"""


def serve(requests: list[dict[str, object]], cwd: Path) -> subprocess.CompletedProcess[str]:
    text = "".join(json.dumps(request) + "\n" for request in requests)
    return subprocess.run([sys.executable, "-c", _SERVE], input=text, capture_output=True, text=True, cwd=cwd)


def test_the_server_answers_when_what_is_waited_for_is_done_whatever_failed(tmp_path: Path) -> None:
    jobs: list[dict[str, object]] = [
        {"number": number, "name": name, "seconds": 0.2 if name != "bad" else -1}
        for number, name in enumerate(("a", "bad", "b", "c"))
    ]
    done = serve([*jobs, {"wait_for": [0, 1, 2, 3]}, {"wait_for": []}], tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n\n", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_the_server_answers_before_the_rest_is_done_which_is_not_begun_when_nobody_is_left(tmp_path: Path) -> None:
    """Two at once; the first is asked for, four more wait behind one that takes long."""
    jobs: list[dict[str, object]] = [
        {"number": number, "name": name, "seconds": seconds}
        for number, (name, seconds) in enumerate(
            [("first", 0.1), ("long", 3.0), *((f"left {i}", 3.0) for i in range(4))]
        )
    ]
    began = time.monotonic()
    done = serve([*jobs, {"wait_for": [0]}], tmp_path)
    assert (done.returncode, done.stdout) == (0, "\n")
    assert len(list(tmp_path.iterdir())) <= 3  # first, long, and the one that was begun in the place of first
    assert time.monotonic() - began < 20


def test_without_its_server_a_compilation_compiles_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/bin/false")
        lost = compiler.CompileServer()
    monkeypatch.setattr(compiler, "_server", lost)
    compiled = []

    class Kernel:
        def warmup(self, *arguments: object, **settings: object) -> None:
            lost._send({"module": "any", "number": 0})  # which may still go into its pipe
            compiled.append(arguments)

    with Compilation(max_workers=1) as compilation:
        compilation.add({"one": lambda: launch(Kernel(), (1,), 16)})
    lost.wait({0})  # for nobody
    lost.close()
    assert compiled == [(16,), (16,)]  # to be sent, and to be loaded


@pytest.mark.slow
@pytest.mark.parametrize("where", ["elsewhere", "here"])
def test_kernels_compiled_elsewhere_are_found_in_the_cache(tmp_path: Path, where: str) -> None:
    program = Path(__file__).with_name("compile_elsewhere.py")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, program, where], capture_output=True, text=True, env=environment)
    kernels = ["add_shares", "backward", "forward", "whole_backward", "whole_forward"]
    there = where == "elsewhere"
    expected = {"compiled": [] if there else kernels, "found": kernels if there else []}
    assert (json.loads(done.stdout), done.returncode) == (expected, 0), done.stderr
