"""The networks' convolution: ``nn.Conv2d`` with a faster path for images on a GPU and for narrow outputs on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normbench import kernels
from normbench.layers.patch_conv2d import can_convolve_patches, convolve_patches
from normbench.layers.precision import kernel_dtype


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` with two paths of our own; parameters, keys and, to rounding, results are those of ``nn.Conv2d``.

    On a GPU, in 16 bits, a Triton kernel convolves images: few channels, and no gradient of the input. On a CPU, a 3x3
    convolution with many channels whose output is at most 4 wide is one matrix product over all images.
    """

    def adopt_weight(self) -> None:
        """Set what starts from the weight, after the weight was drawn anew; here there is nothing."""

    def has_kernel(self, input: Tensor, dtype: torch.dtype) -> bool:
        """Return whether the kernel computes this layer, its weight cast to `dtype`, on `input`."""
        is_covered = self._is_plain_3x3() and self.stride == (1, 1)
        return is_covered and kernels.can_convolve_images(input, self.weight.shape, dtype)

    def _is_plain_3x3(self) -> bool:
        form = (self.kernel_size, self.padding, self.dilation, self.groups, self.padding_mode, self.bias)
        return form == ((3, 3), (1, 1), (1, 1), 1, "zeros", None)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        dtype = kernel_dtype(input, weight)
        if dtype is not None and self.has_kernel(input, dtype):
            return kernels.convolve_images(input, weight.to(dtype))  # which rounds the images itself
        stride = self.stride[0]
        if self._is_plain_3x3() and self.stride == (stride, stride) and can_convolve_patches(input, weight, stride):
            return convolve_patches(input, weight, stride)
        y: Tensor = super()._conv_forward(input, weight, bias)
        return y
