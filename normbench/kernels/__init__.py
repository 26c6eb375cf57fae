"""Fused normalization + activation on CUDA, in Triton; importable everywhere, without torch or Triton.

`NormActSpec` says what to compute, `norm_act` computes it with gradients, and `unsupported_reason` says in a line why a
tensor must take the native composition instead. `reference.norm_act` is the same computation as a plain formula.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from normbench.kernels.spec import NormActSpec

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NormActSpec", "norm_act", "unsupported_reason"]


def unsupported_reason(x: Tensor, spec: NormActSpec) -> str | None:
    """Return None where `norm_act` can run on `x`, ``(N, C, H, W)``, and otherwise why not, in one line."""
    from normbench.kernels import support

    return support.unsupported_reason(x, spec)


def norm_act(
    x: Tensor,
    spec: NormActSpec,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    extra: Tensor | None = None,
    *,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    num_batches_tracked: Tensor | None = None,
    momentum: float = 0.1,
    use_running: bool = False,
) -> Tensor:
    """Normalize and activate `x`, ``(N, C, H, W)`` -> the same shape, dtype and memory format, with gradients.

    Keeps `x` and float32 statistics for the backward pass, and nothing else. Captures in a CUDA graph.

    Args:
        x: float32, bfloat16 or float16; contiguous or channels_last.
        spec: what to compute.
        weight: scale, ``(C,)``, float32.
        bias: shift, ``(C,)``, float32.
        extra: ``(C,)``, float32: the threshold tau of ``tlu``, or the slope v of ``gate`` (1 where it is absent).
        running_mean: ``(C,)``, updated in place from batch statistics.
        running_var: ``(C,)``, likewise, with the unbiased variance.
        num_batches_tracked: counts the updates; a scalar.
        momentum: weight of the new batch in the running statistics.
        use_running: normalize by the running statistics and leave them alone; no gradient then.

    Raises:
        ValueError: `unsupported_reason` has a reason, or an argument does not go with `spec`.
    """
    from normbench.kernels.functions import Parameters, Running
    from normbench.kernels.functions import norm_act as launch

    running = None
    if running_mean is not None and running_var is not None:
        running = Running(running_mean, running_var, num_batches_tracked, momentum, use_running)
    elif use_running:
        raise ValueError("use_running needs running_mean and running_var")
    return launch(x, spec, Parameters(weight, bias, extra), running)
