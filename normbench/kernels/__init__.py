"""Triton kernels for CUDA, one file an operation; importable wherever torch is, as Triton loads at the first launch.

Each operation comes with the question whether it can run: `norm_act` (`unsupported_reason` says in a line why not) is a
normalization with the activation after it, `convolve_images` (`can_convolve_images`) the convolution of a batch of
images, `convolve_patches_gelu` (`can_convolve_patches_gelu`) another one with a GELU and fixed filters, `convolve`
(`can_convolve`) that between layers, `pool_maxima` (`can_pool_maxima`) the maximum over 2 x 2 pixels, `pooled_linear`
(`can_pool_linear`) the mean over positions with a linear layer; all have gradients and can be captured in a CUDA graph.
`train_step` holds what surrounds the network. `reference` has the formulas of `NormActSpec` in plain torch.

The names below load on first use, because `compiler` and `compile_server` do without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normbench.kernels.conv import can_convolve, convolve
    from normbench.kernels.image_conv import can_convolve_images, convolve_images
    from normbench.kernels.max_pool import can_pool_maxima, pool_maxima
    from normbench.kernels.operation import AnySpec, norm_act, unsupported_reason
    from normbench.kernels.patch_gelu import can_convolve_patches_gelu, convolve_patches_gelu
    from normbench.kernels.pool_linear import can_pool_linear, pooled_linear
    from normbench.kernels.spec import MomentsSpec, NormActSpec, PixelSpec, WindowSpec
    from normbench.kernels.squashing import SquashSpec, squash

_EXPORTS = {
    "AnySpec": "normbench.kernels.operation",
    "MomentsSpec": "normbench.kernels.spec",
    "NormActSpec": "normbench.kernels.spec",
    "PixelSpec": "normbench.kernels.spec",
    "SquashSpec": "normbench.kernels.squashing",
    "WindowSpec": "normbench.kernels.spec",
    "can_convolve": "normbench.kernels.conv",
    "can_convolve_images": "normbench.kernels.image_conv",
    "can_convolve_patches_gelu": "normbench.kernels.patch_gelu",
    "can_pool_linear": "normbench.kernels.pool_linear",
    "can_pool_maxima": "normbench.kernels.max_pool",
    "convolve": "normbench.kernels.conv",
    "convolve_images": "normbench.kernels.image_conv",
    "convolve_patches_gelu": "normbench.kernels.patch_gelu",
    "norm_act": "normbench.kernels.operation",
    "pool_maxima": "normbench.kernels.max_pool",
    "pooled_linear": "normbench.kernels.pool_linear",
    "squash": "normbench.kernels.squashing",
    "unsupported_reason": "normbench.kernels.operation",
}

__all__ = [
    "AnySpec",
    "MomentsSpec",
    "NormActSpec",
    "PixelSpec",
    "SquashSpec",
    "WindowSpec",
    "can_convolve",
    "can_convolve_images",
    "can_convolve_patches_gelu",
    "can_pool_linear",
    "can_pool_maxima",
    "convolve",
    "convolve_images",
    "convolve_patches_gelu",
    "norm_act",
    "pool_maxima",
    "pooled_linear",
    "squash",
    "unsupported_reason",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
