"""Compiling ahead: what fails leaves the rest alone, and equal kernels are compiled once."""

from __future__ import annotations

import time

import pytest
import torch

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")

from normbench.kernels.launch import Compilation, launch


def test_a_launch_that_fails_leaves_the_others_alone() -> None:
    compiled = []

    class Kernel:
        def warmup(self, *arguments: object, **settings: object) -> None:
            compiled.append((arguments, settings))

    def fail() -> None:
        raise RuntimeError("out of shared memory")

    with Compilation(max_workers=1) as compilation:
        compilation.add({"bad": fail, "good": lambda: launch(Kernel(), (3,), 1, BLOCK=2)})
    assert compiled == [((1,), {"grid": (3,), "BLOCK": 2})]


def test_equal_launches_are_added_once() -> None:
    compiled = []
    with Compilation(max_workers=1) as compilation:
        compilation.add({"a": lambda: compiled.append("a"), "b": lambda: compiled.append("b")})
        compilation.add({"b": lambda: compiled.append("b again"), "c": lambda: compiled.append("c")})
    assert sorted(compiled) == ["a", "b", "c"]


def test_launches_for_which_triton_compiles_the_same_are_compiled_once() -> None:
    compiled = []

    class Kernel:
        def warmup(self, *arguments: object, **settings: object) -> None:
            compiled.append((*arguments[1:], settings["BLOCK"]))

    kernel, half, single = Kernel(), torch.zeros(8, dtype=torch.bfloat16), torch.zeros(8)

    def launches() -> None:
        for grid, tensor, count, block in [
            (3, half, 32, 2),
            (9, half, 64, 2),  # another grid, another multiple of 16
            (3, half, 33, 2),  # no multiple
            (3, half, 1, 2),
            (3, single, 32, 2),
            (3, half[1:], 32, 2),  # an address that is no multiple
            (3, half, 32, 4),
            (3, half, None, 2),
        ]:
            launch(kernel, (grid,), tensor, count, BLOCK=block)

    with Compilation(max_workers=1) as compilation:
        compilation.add({"once": launches, "again": launches})
    assert compiled == [(32, 2), (33, 2), (1, 2), (32, 2), (32, 2), (32, 4), (None, 2)]


def test_what_launches_kernels_is_loaded_by_one_thread_at_a_time() -> None:
    """Before Triton 3.8 Python may hand a thread another kernel's launcher, where several threads load theirs."""
    loading, most = [], []

    class Ready:
        @property
        def run(self) -> None:
            loading.append(self)
            time.sleep(0.02)
            most.append(len(loading))
            loading.remove(self)

    class Kernel:
        def warmup(self, *arguments: object, **settings: object) -> Ready:
            return Ready()

    kernels = [Kernel() for _ in range(8)]
    with Compilation(max_workers=4) as compilation:
        compilation.add({number: lambda kernel=kernel: launch(kernel, (1,)) for number, kernel in enumerate(kernels)})
    assert most == [1] * 8
