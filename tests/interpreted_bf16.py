"""What Triton's interpreter lacks for bf16."""

import numpy as np
import pytest


def widen_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Widen bf16 before the interpreter multiplies matrices: it keeps bf16 as integers, which it would multiply."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def wide(handle: TensorHandle) -> TensorHandle:
        if handle.dtype != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    multiply = InterpreterBuilder.create_dot
    monkeypatch.setattr(
        InterpreterBuilder, "create_dot", lambda self, a, b, *rest: multiply(self, wide(a), wide(b), *rest)
    )
