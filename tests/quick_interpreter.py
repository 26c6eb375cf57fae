"""Triton's interpreter without what it does again and again, or for nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import ModuleType
from typing import Any

import triton.language as tl
from triton.runtime import interpreter


def patch_language_once() -> None:
    """Have the interpreter patch Triton's language for a launch, and not again for each function that a kernel calls.

    Those patches come to nothing, because a launch has made the same ones, and take a third of the time (triton 3.8).
    Functions of Triton's own see its language as another module, which the first call patches for good.
    """
    patched: set[frozenset[ModuleType]] = {frozenset([tl])}
    call = interpreter.InterpretedFunction.__call__
    patch = interpreter._patch_lang

    @cache
    def languages(function: Any) -> frozenset[ModuleType]:
        return frozenset(value for value in function.__globals__.values() if value is tl or value is tl.core)

    def patch_first(function: Any) -> None:
        if languages(function) not in patched:
            patched.add(languages(function))
            patch(function)

    def call_function(self: Any, *arguments: Any, **options: Any) -> Any:
        interpreter._patch_lang = patch_first
        try:
            return call(self, *arguments, **options)
        finally:
            interpreter._patch_lang = patch

    interpreter.InterpretedFunction.__call__ = call_function


def compute_no_unused_checks() -> None:
    """Have the interpreter compute no integer twice, and look a type up once.

    It computes each sum, difference and product of integers once more in 64 bits, to assert that nothing overflows, and
    then drops that assertion, because only debugging emits it: two fifths of the time (triton 3.8). For each value it
    makes, it builds a table of types, of which it takes one.
    """
    builder = interpreter.interpreter_builder
    assert not builder.options.debug, "the assertions would be made"
    builder.options = replace(builder.options, sanitize_overflow=False)
    look_up, found = interpreter._get_np_dtype, {}

    def numpy_type(triton_type: Any) -> Any:
        name = triton_type.scalar.name  # types of pointers and blocks have no hash
        if name not in found:
            found[name] = look_up(triton_type)
        return found[name]

    interpreter._get_np_dtype = numpy_type
