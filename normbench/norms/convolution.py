"""The networks' convolution: torch's, but for that of the images themselves on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normbench import kernels
from normbench.norms.precision import kernel_dtype


class Conv2d(nn.Conv2d):
    """``nn.Conv2d``, with a kernel of our own where the input is images: few channels, no gradient; in 16 bits.

    Parameters, keys and, to rounding, results are those of ``nn.Conv2d``.
    """

    def has_kernel(self, input: Tensor, dtype: torch.dtype) -> bool:
        """Return whether the kernel computes this layer, its weight cast to `dtype`, on `input`."""
        form = (self.kernel_size, self.stride, self.padding, self.dilation, self.groups, self.padding_mode, self.bias)
        is_covered = form == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros", None)
        return is_covered and kernels.can_convolve_images(input, self.weight.shape, dtype)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        dtype = kernel_dtype(input, weight)
        if dtype is not None and self.has_kernel(input, dtype):
            return kernels.convolve_images(input, weight.to(dtype))  # which rounds the images itself
        y: Tensor = super()._conv_forward(input, weight, bias)
        return y
