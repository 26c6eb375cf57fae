"""The networks' convolution: ``nn.Conv2d`` with faster paths on a GPU, and on a CPU for narrow outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normbench import kernels
from normbench.kernels.conv import Relu
from normbench.layers.patch_conv2d import can_convolve_patches, convolve_patches
from normbench.layers.precision import kernel_dtype


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` with three paths of our own; parameters, keys and, to rounding, results are those of ``nn.Conv2d``.

    On a GPU, in 16 bits, a Triton kernel convolves images: few channels, and no gradient of the input. Others convolve
    what layers hand on, 3x3 or 1x1, where they are faster than cuDNN. All add a bias as they write. On a CPU, a 3x3
    convolution without bias, with many channels, whose output is a few positions wide is one matrix product over all
    images.
    """

    with_relu = False
    """Whether a ReLU follows that a network may have run in the same kernel (`normbench.layers.conv_stack`)."""
    after_relu = False
    """Whether the input is such a ReLU's output."""

    def adopt_weight(self) -> None:
        """Set what starts from the weight, after the weight was drawn anew; here there is nothing."""

    def has_kernel(self, input: Tensor, dtype: torch.dtype) -> bool:
        """Return whether the kernel computes this layer, its weight cast to `dtype`, on `input`."""
        is_covered = self._is_plain(3) and self.stride == (1, 1)
        return is_covered and kernels.can_convolve_images(input, self.weight.shape, dtype)

    def has_layer_kernel(self, input: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
        """Return whether the kernels between layers compute this layer with `weight`, both cast to `dtype`."""
        stride = self.stride[0]
        is_covered = (self._is_plain(3) or self._is_plain(1)) and self.stride == (stride, stride)
        return is_covered and kernels.can_convolve(input, weight, stride, dtype)

    def _is_plain(self, size: int) -> bool:
        """Return whether the layer has a kernel of `size`, padding by half of it, and no groups or dilation."""
        form = (self.kernel_size, self.padding, self.dilation, self.groups, self.padding_mode)
        return form == ((size, size), (size // 2, size // 2), (1, 1), 1, "zeros")

    def relu_forward(self, input: Tensor, before: Relu | None) -> tuple[Tensor, Relu] | None:
        """Return the layer's output after a ReLU, and that ReLU; None where no kernel computes both.

        `before` is the ReLU that gave the input and, in the same way, came with it.
        """
        dtype, relu = kernel_dtype(input, self.weight), Relu()
        if dtype is not None and self.has_kernel(input, dtype):
            bias = _cast(self.bias, dtype)
            return kernels.convolve_images(input, self.weight.to(dtype), bias=bias, relu=relu), relu
        if dtype is not None and self.has_layer_kernel(input, self.weight, dtype):
            weight, bias = self.weight.to(dtype), _cast(self.bias, dtype)
            y = kernels.convolve(input.to(dtype), weight, self.stride[0], bias=bias, relu=relu, before=before)
            return y, relu
        return None

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        dtype = kernel_dtype(input, weight)
        if dtype is not None and self.has_kernel(input, dtype):
            # Images are rounded by the kernel.
            return kernels.convolve_images(input, weight.to(dtype), bias=_cast(bias, dtype))
        stride = self.stride[0]
        if dtype is not None and self.has_layer_kernel(input, weight, dtype):
            return kernels.convolve(input.to(dtype), weight.to(dtype), stride, bias=_cast(bias, dtype))
        is_square = bias is None and self._is_plain(3) and self.stride == (stride, stride)
        if dtype is not None and is_square and can_convolve_patches(input, weight, stride, dtype):
            return convolve_patches(input.to(dtype), weight.to(dtype), stride)
        y: Tensor = super()._conv_forward(input, weight, bias)
        return y


def _cast(bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return the bias in `dtype`, as autocast gives it to torch's convolution."""
    return None if bias is None else bias.to(dtype)
