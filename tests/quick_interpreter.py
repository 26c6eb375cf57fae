"""Triton's interpreter without what it does again and again."""

from __future__ import annotations

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
