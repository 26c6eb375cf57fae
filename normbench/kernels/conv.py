"""The convolution between layers as a differentiable operation: what it allocates, keeps and launches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from normbench.kernels.conv_plan import ConvShape, Tile, forward_tile, input_tile, is_faster, weight_tile, whole_lines
from normbench.kernels.launch import launch
from normbench.kernels.norm_activation import summed
from normbench.kernels.support import HALF_DTYPES, MAX_ELEMENTS, is_channels_last, unsupported_device_reason
from normbench.kernels.tiling import ceil_div

CHANNELS_MULTIPLE = 16
"""No side of a tensor core's product is shorter; other numbers of channels are left to cuDNN."""


class GradientShares:
    """Takes the gradient of a weight as float32 shares that are still to be summed, in place of ``weight.grad``.

    Whoever has given a weight one of these as its attribute `gradient_shares` sums them, in their order.
    """

    def __init__(self) -> None:
        self.tensor: Tensor | None = None
        """``(shares, C_out, kernel, kernel, C)``, contiguous; None until there is a gradient."""

    def add(self, shares: Tensor) -> None:
        """Take `shares` too: of a weight that is used twice."""
        self.tensor = shares if self.tensor is None else torch.cat([self.tensor, shares])


class Relu:
    """A ReLU inside the kernel of the convolution before it; the two passes share it.

    Its slope is applied to the gradient of its output by the next convolution's kernel, where that one is the only one
    to read the output, and otherwise by an operation of its own.
    """

    def __init__(self) -> None:
        self.is_slope_applied = False
        """Whether the gradient comes with the slope applied."""

    def backward(self, grad: Tensor, y: Tensor) -> Tensor:
        """Return the gradient before the ReLU from that after it, where it gave `y`."""
        return grad if self.is_slope_applied else torch.ops.aten.threshold_backward(grad, y, 0)


def can_convolve(x: Tensor, weight: Tensor, stride: int, dtype: torch.dtype) -> bool:
    """Return whether `convolve` can run on `x` and `weight`, both cast to `dtype`."""
    if dtype not in HALF_DTYPES or x.ndim != 4 or weight.ndim != 4 or stride not in (1, 2):
        return False
    channels_out, channels, height, width = weight.shape
    if (height, width) not in ((1, 1), (3, 3)) or channels != x.shape[1]:
        return False
    if channels % CHANNELS_MULTIPLE or channels_out % CHANNELS_MULTIPLE or not x.numel():
        return False
    num_outputs = x[:, 0].numel() * channels_out  # at stride 1; enough for all rows, rounded up to whole tiles
    fits = max(x.numel(), num_outputs) <= MAX_ELEMENTS and is_channels_last(x) and is_channels_last(weight)
    return fits and unsupported_device_reason(x.device) is None


def convolve(
    x: Tensor,
    weight: Tensor,
    stride: int = 1,
    *,
    bias: Tensor | None = None,
    relu: Relu | None = None,
    before: Relu | None = None,
) -> Tensor:
    """Convolve `x` with zeros around it, half the kernel's size; products are summed in float32.

    Captures in a CUDA graph; the same input gives the same bits, whatever else runs.

    Args:
        x: ``(N, C, H, W)``, channels_last, bfloat16 or float16.
        weight: ``(C_out, C, 3, 3)`` or ``(C_out, C, 1, 1)``, channels_last, in the dtype of `x`.
        stride: 1 or 2.
        bias: ``(C_out,)``, of any floating-point dtype, added in float32 before the output is rounded.
        relu: the ReLU to apply to the output, if any.
        before: the ReLU that gave `x`, if nothing else reads `x`.

    Returns:
        ``(N, C_out, H', W')``, channels_last, ``H' = (H - 1) // stride + 1``.

    Raises:
        ValueError: `can_convolve` says no.
    """
    if x.dtype != weight.dtype or not can_convolve(x, weight, stride, x.dtype):
        raise ValueError("no kernel for this input and weight: see can_convolve")
    y: Tensor = Convolution.apply(x, weight, bias, stride, relu, before)
    return y


class Convolution(torch.autograd.Function):
    """The convolution with the gradients of input, weight and bias."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: int,
        relu: Relu | None,
        before: Relu | None,
    ) -> Tensor:
        """Return the output, and keep input and weight, and the output of a ReLU."""
        if is_faster(shape_of(x, weight, stride), "forward", fused=relu is not None):
            y = forward(x, weight, stride, bias=bias, relu=relu is not None)
        else:
            bias = None if bias is None else bias.to(x.dtype)
            y = torch.conv2d(x, weight, bias, stride=stride, padding=weight.shape[2] // 2)
        ctx.save_for_backward(x, weight, None if relu is None else y)
        ctx.stride, ctx.sink, ctx.relu, ctx.after_relu = stride, getattr(weight, "gradient_shares", None), relu, False
        if before is not None and ctx.needs_input_grad[0]:
            ctx.after_relu = before.is_slope_applied = True
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients, or leave the weight's in shares with whoever takes them."""
        x, weight, y = ctx.saved_tensors
        grad = grad.to(x.dtype).contiguous(memory_format=torch.channels_last)
        if ctx.relu is not None:
            grad = ctx.relu.backward(grad, y)
        shape = shape_of(x, weight, ctx.stride)
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        ours = (
            needs_input and is_faster(shape, "input", fused=ctx.after_relu),
            needs_weight and is_faster(shape, "weight"),
        )
        theirs = [needs_input and not ours[0], needs_weight and not ours[1], False]
        dx, dw, _ = _torch_gradients(grad, x, weight, ctx.stride, theirs)
        our_dx, shares = gradients(grad, x, weight, ctx.stride, *ours, after_relu=ctx.after_relu)
        if shares is not None and ctx.sink is not None:
            ctx.sink.add(shares)
        elif shares is not None:
            dw = total(shares, weight)
        return our_dx if ours[0] else dx, dw, bias_gradient(grad) if needs_bias else None, None, None, None


def _torch_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, needed: list[bool]
) -> Sequence[Tensor | None]:
    """Return torch's gradients of `x` and `weight`, as far as they are `needed`: those of `x`, `weight` and a bias."""
    if not any(needed):
        return None, None, None
    padding = weight.shape[2] // 2
    gradients_: Sequence[Tensor | None] = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, needed
    )
    return gradients_


def bias_gradient(grad: Tensor) -> Tensor:
    """Return the gradient of a bias, ``(C,)``, float32, from that of the output, ``(N, C, H, W)``."""
    return grad.sum((0, 2, 3), dtype=torch.float32)


def forward(x: Tensor, weight: Tensor, stride: int, *, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """Return the output, ``(N, C_out, H', W')``, channels_last, after a bias and a ReLU if there are any.

    `x` is ``(N, C, H, W)``, `weight` is ``(C_out, C, kernel, kernel)``; both are channels_last.
    """
    from normbench.triton_code import conv_kernels

    shape = shape_of(x, weight, stride)
    tile = forward_tile(shape)
    size = (len(x), shape.channels_out, *shape.out_size)
    y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    launch(
        conv_kernels.forward, (ceil_div(shape.rows, tile.m) * (shape.channels_out // tile.n),),
        x, weight, bias, y, shape.images,
        RELU=relu, BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=tile.k, STAGES=tile.stages,
        **shape.constants, num_warps=tile.num_warps,
    )  # fmt: skip
    return y  # no view: of a function's own, autograd takes no view that a ReLU overwrites


def gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, needs_input: bool = True, needs_weight: bool = True, *,
    after_relu: bool = False,
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """Return the gradient of `x`, laid out as `x`, and that of `weight` in shares: each, if it is needed.

    Shares are float32, ``(shares, C_out, kernel, kernel, C)``. With `after_relu`, the first is the gradient
    before the ReLU which gave `x`. See `forward` for the shapes.
    """
    shape = shape_of(x, weight, stride)
    for_input, (for_weight, num_shares) = input_tile(shape), weight_tile(shape)
    dx = torch.empty_like(x) if needs_input else None
    shares = None
    if needs_weight:
        form = (num_shares, shape.channels_out, shape.kernel, shape.kernel, shape.channels)
        shares = x.new_empty(form, dtype=torch.float32)
    if dx is not None and shares is not None and for_input.num_warps == for_weight.num_warps:
        _launch_both(grad, weight, dx, x, shares, shape, for_input, for_weight, num_shares, after_relu)
        return dx, shares
    if dx is not None:
        _launch_input(grad, weight, dx, x, shape, for_input, after_relu)
    if shares is not None:
        _launch_weight(grad, x, shares, shape, for_weight, num_shares)
    return dx, shares


def _launch_input(
    grad: Tensor, weight: Tensor, dx: Tensor, x: Tensor, shape: ConvShape, tile: Tile, after_relu: bool
) -> None:
    from normbench.triton_code import conv_kernels

    launch(
        conv_kernels.input_gradient, (_input_tiles(shape, tile),),
        grad, weight, dx, x, shape.images,
        RELU=after_relu, BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=tile.k, STAGES=tile.stages,
        **shape.constants, num_warps=tile.num_warps,
    )  # fmt: skip


def _launch_weight(grad: Tensor, x: Tensor, shares: Tensor, shape: ConvShape, tile: Tile, num_shares: int) -> None:
    from normbench.triton_code import conv_kernels

    launch(
        conv_kernels.weight_gradient, (_weight_tiles(shape, tile) * num_shares,),
        grad, x, shares, shape.images,
        BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=tile.k, SPLIT=num_shares,
        WHOLE_LINES=whole_lines(shape, tile, num_shares), STAGES=tile.stages,
        **shape.constants, num_warps=tile.num_warps,
    )  # fmt: skip


def _launch_both(
    grad: Tensor, weight: Tensor, dx: Tensor, x: Tensor, shares: Tensor, shape: ConvShape,
    for_input: Tile, for_weight: Tile, num_shares: int, after_relu: bool,
) -> None:  # fmt: skip
    from normbench.triton_code import conv_kernels

    input_tiles = _input_tiles(shape, for_input)
    launch(
        conv_kernels.backward, (input_tiles + _weight_tiles(shape, for_weight) * num_shares,),
        grad, weight, dx, x, shares, shape.images, input_tiles, RELU=after_relu,
        INPUT_M=for_input.m, INPUT_N=for_input.n, INPUT_K=for_input.k, INPUT_STAGES=for_input.stages,
        WEIGHT_M=for_weight.m, WEIGHT_N=for_weight.n, WEIGHT_K=for_weight.k, WEIGHT_STAGES=for_weight.stages,
        SPLIT=num_shares, WHOLE_LINES=whole_lines(shape, for_weight, num_shares),
        **shape.constants, num_warps=for_input.num_warps,
    )  # fmt: skip


def _input_tiles(shape: ConvShape, tile: Tile) -> int:
    return ceil_div(shape.rows, tile.m) * (shape.channels // tile.n) * shape.stride**2


def _weight_tiles(shape: ConvShape, tile: Tile) -> int:
    return shape.channels_out // tile.m * shape.kernel**2 * (shape.channels // tile.n)


def total(shares: Tensor, weight: Tensor) -> Tensor:
    """Return the sum of `shares` as a gradient of `weight`: in its shape and dtype, channels_last."""
    channels_out, channels, kernel, _ = weight.shape
    flat = shares.view(len(shares), 1, -1)
    return summed(flat, weight.dtype).view(channels_out, kernel, kernel, channels).permute(0, 3, 1, 2)


def shape_of(x: Tensor, weight: Tensor, stride: int) -> ConvShape:
    """Return the shape of a launch."""
    images, channels, height, width = x.shape
    return ConvShape(images, height, width, channels, len(weight), weight.shape[2], stride)


def launch_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, with_relu: bool, after_relu: bool
) -> None:
    """Launch every kernel that `convolve` launches on such tensors; for use in a `Compilation`."""
    shape = shape_of(x, weight, stride)
    if is_faster(shape, "forward", fused=with_relu):
        forward(x, weight, stride, bias=bias, relu=with_relu)


def launch_all(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, with_relu: bool, after_relu: bool) -> None:
    """Launch every kernel that `convolve` and its gradient launch on such tensors; for use in a `Compilation`."""
    launch_forward(x, weight, bias, stride, with_relu, after_relu)
    shape = shape_of(x, weight, stride)
    grad = x.new_empty((shape.images, *shape.out_size, shape.channels_out)).permute(0, 3, 1, 2)
    ours = (is_faster(shape, "input", fused=after_relu), is_faster(shape, "weight"))
    _, shares = gradients(grad, x, weight, stride, *ours, after_relu=after_relu)
    if shares is not None:
        total(shares, weight)
