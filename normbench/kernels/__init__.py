"""Kernels in Triton for CUDA, above all normalization + activation; importable everywhere, without torch or Triton.

`NormActSpec` says what to compute, `norm_act` computes it with gradients, and `unsupported_reason` says in a line why a
tensor must take the native composition instead. `reference.norm_act` is the same computation as a plain formula.
`convolve_images` is the convolution of a batch of images, and `can_convolve_images` says where it can run;
`pooled_linear` is the mean over positions with a linear layer, and `can_pool_linear` says where.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from normbench.kernels.spec import NormActSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = [
    "NormActSpec",
    "can_convolve_images",
    "can_pool_linear",
    "convolve_images",
    "norm_act",
    "pooled_linear",
    "unsupported_reason",
]


def can_convolve_images(images: Tensor, weight_shape: torch.Size, dtype: torch.dtype) -> bool:
    """Return whether `convolve_images` can run on `images`, with a weight of this shape in `dtype`."""
    from normbench.kernels import support

    return support.can_convolve_images(images, weight_shape, dtype)


def convolve_images(images: Tensor, weight: Tensor) -> Tensor:
    """Convolve `images` 3x3 at stride 1 with zeros around them, with a gradient of the weight only.

    Images are rounded to the weight's dtype, products summed in float32. Captures in a CUDA graph.

    Args:
        images: ``(N, C, H, W)``, C at most 4, channels_last, float32, bfloat16 or float16.
        weight: ``(C_out, C, 3, 3)``, of any strides, bfloat16 or float16.

    Returns:
        ``(N, C_out, H, W)``, channels_last, in the dtype of `weight`.

    Raises:
        ValueError: `can_convolve_images` says no.
    """
    from normbench.kernels.image_conv import convolve_images as launch

    return launch(images, weight)


def can_pool_linear(x: Tensor, weight_shape: torch.Size, dtype: torch.dtype) -> bool:
    """Return whether `pooled_linear` can run on `x`, with a weight of this shape in `dtype`."""
    from normbench.kernels import support

    return support.can_pool_linear(x, weight_shape, dtype)


def pooled_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear layer to the mean of `x` over its positions, with all gradients.

    Sums are in float32; the mean is rounded to the dtype of `x`, as torch's is. Captures in a CUDA graph.

    Args:
        x: ``(N, C, H, W)``, channels_last, bfloat16 or float16.
        weight: ``(K, C)``, in the dtype of `x`.
        bias: ``(K,)``, likewise.

    Returns:
        ``(N, K)``, in the dtype of `x`.

    Raises:
        ValueError: `can_pool_linear` says no.
    """
    from normbench.kernels.pool_linear import pooled_linear as launch

    return launch(x, weight, bias)


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
    from normbench.kernels.norm_activation import Parameters, Running
    from normbench.kernels.norm_activation import norm_act as launch

    running = None
    if running_mean is not None and running_var is not None:
        running = Running(running_mean, running_var, num_batches_tracked, momentum, use_running)
    elif use_running:
        raise ValueError("use_running needs running_mean and running_var")
    return launch(x, spec, Parameters(weight, bias, extra), running)
