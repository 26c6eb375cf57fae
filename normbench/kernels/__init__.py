"""Operations on tensors that one launch on a CUDA device computes, one file an operation; its kernels are Triton's.

Each operation comes with the question whether it can run: `norm_act` (`unsupported_reason` says in a line why not) is a
normalization with the activation after it, `convolve_images` (`can_convolve_images`) the convolution of a batch of
images, `convolve_patches_gelu` (`can_convolve_patches_gelu`) another one with a GELU and fixed filters, `convolve`
(`can_convolve`) that between layers, `pool_maxima` (`can_pool_maxima`) the maximum over 2 x 2 pixels, `pooled_linear`
(`can_pool_linear`) the mean over positions with a linear layer; all have gradients and can be captured in a CUDA graph.
`train_step` holds what surrounds the network. `reference` has the formulas of `NormActSpec` in plain torch.

Importable wherever torch is: what is written in Triton (`normbench.triton_code`) loads at the first launch.
"""

from normbench.kernels.conv import can_convolve, convolve
from normbench.kernels.image_conv import can_convolve_images, convolve_images
from normbench.kernels.max_pool import can_pool_maxima, pool_maxima
from normbench.kernels.operation import AnySpec, norm_act, unsupported_reason
from normbench.kernels.patch_gelu import can_convolve_patches_gelu, convolve_patches_gelu
from normbench.kernels.pool_linear import can_pool_linear, pooled_linear
from normbench.kernels.spec import MomentsSpec, NormActSpec, PixelSpec, WindowSpec
from normbench.kernels.squashing import SquashSpec, squash

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
